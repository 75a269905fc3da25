"""Out-of-memory errors: recognized among others, and reported with what the memory was needed for."""

from __future__ import annotations

import errno
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from train.distributed.exit_codes import OUT_OF_MEMORY

SIGNS = ("out of memory", "can't allocate memory", "cannot allocate memory", "alloc_failed", "bad_alloc")
"""Parts of such messages from CUDA, torch's CPU allocator, the system, cuBLAS and C++."""


class OutOfMemory(RuntimeError):
    """A rank ran out of memory."""

    exit_code = OUT_OF_MEMORY

    def __init__(self, needed_for: str, said: str, advice: str = "") -> None:
        super().__init__(f"out of memory for {needed_for} ({said}){f'. {advice}' if advice else ''}")
        self.needed_for = needed_for
        self.said = said


def says_no_memory(error: BaseException) -> bool:
    """Return whether an error means out of memory, on the host or on a device."""
    if isinstance(error, (MemoryError, OutOfMemory)):
        return True
    torch: Any = sys.modules.get("torch")  # `pdpc train` does without it
    if torch is not None and isinstance(error, torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in SIGNS)


@contextmanager
def needing(what: str) -> Iterator[None]:
    """Turn an out-of-memory error inside into OutOfMemory, which says what the memory was needed for."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OutOfMemory) or not says_no_memory(error):
            raise
        raise OutOfMemory(what, first_line(error)) from error


def first_line(error: BaseException) -> str:
    """Return the first line of an error, without the addresses and stacks that follow."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
