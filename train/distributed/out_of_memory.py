"""Errors that say that there is no memory: told apart from others, by what it was needed for."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from train.distributed.exit_codes import OUT_OF_MEMORY

SIGNS = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_failed", "bad_alloc")
"""What is in such messages of CUDA, of torch's allocator on the CPU, of the system, of cuBLAS and of C++."""


class OutOfMemory(RuntimeError):
    """The memory of a rank did not suffice."""

    exit_code = OUT_OF_MEMORY

    def __init__(self, needed_for: str, said: str, advice: str = "") -> None:
        super().__init__(f"out of memory for {needed_for} ({said}){f'. {advice}' if advice else ''}")
        self.needed_for = needed_for
        self.said = said


def says_no_memory(error: BaseException) -> bool:
    """Tell whether an error says that there is no memory, be it the host's or a device's."""
    if isinstance(error, (MemoryError, OutOfMemory, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS)


@contextmanager
def needing(what: str) -> Iterator[None]:
    """Say what memory is needed for inside: an error that says that there is none becomes OutOfMemory."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemory) or not says_no_memory(error):
            raise
        raise OutOfMemory(what, first_line(error)) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error that says so, without the addresses and stacks that follow."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
