"""A function of DeepSpeed's replaced for a while, and what it need not do while it starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def replaced(owner: Any, name: str, instead: Callable[..., Any]) -> Iterator[None]:
    """Let `owner` have another function by this name inside: a module, or an object with a method of its class."""
    before = vars(owner).get(name)
    setattr(owner, name, instead)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@contextmanager
def swift_start() -> Iterator[None]:
    """Spare a start of DeepSpeed 0.19.8 what nobody asked for.

    Whatever the optimizer, it imports Muon's, whose decorators load the back end of torch's compiler: 1.1 s of a rank's
    processor time. BF16_Optimizer collects Python's garbage four times to print memory figures on rank 0: 1.4 s.
    """
    from deepspeed.runtime import bf16_optimizer, compiler

    with (
        replaced(compiler, "compile", lambda: compiler.dummy_decorator),
        replaced(bf16_optimizer, "see_memory_usage", _say_nothing),
    ):
        yield


def _say_nothing(message: str, force: bool = False) -> None:
    """Stand for `see_memory_usage`."""
