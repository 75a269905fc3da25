"""Files that are read in place for hours: truncating one in the meantime raises an error that names it.

Accessing the missing part of a truncated mapped file kills the process (SIGBUS), or returns zeros up to the end of its
last page. So a file is mapped only where one system call per sample would be too slow, and is then accessed only
between two checks of its size; all other files are read. An open file stays the same file when its name is removed or
reused.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curriculum.artifact.files import ArtifactError


class UnreadableError(ArtifactError):
    """A file that was intact when it was opened can no longer be read."""

    exit_code = os.EX_IOERR

    @classmethod
    def cut(cls, path: Path, size: int, needed: int) -> UnreadableError:
        """Return the error for a file that has become too short."""
        return cls(
            f"{path} has {size} bytes, but had {needed} when it was opened: it was truncated while in use; restore the "
            "complete file and run the same command again"
        )

    @classmethod
    def failed(cls, path: Path, error: OSError) -> UnreadableError:
        """Return the error for a read that the operating system rejected."""
        return cls(
            f"{path} can no longer be read ({error.strerror or error}): check its disk or file system, then run the "
            "same command again"
        )


def size_on_disk(mapped: mmap.mmap) -> int:
    """Return the current size of the mapped file, which differs from the map's once the file was truncated."""
    return mapped.size()


class OpenFile:
    """The first `size` bytes of a file, read on demand. Any number of threads may read."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed with this object)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UnreadableError.failed(path, error) from error

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Return the bytes [start, stop). Raises UnreadableError when they cannot be read."""
        data = np.empty(stop - start, dtype=np.uint8)
        left = data.data
        while left:
            try:
                got = os.preadv(self._file.fileno(), [left], stop - len(left))
                if got == 0:
                    raise UnreadableError.cut(self.path, os.fstat(self._file.fileno()).st_size, self.size)
            except OSError as error:
                raise UnreadableError.failed(self.path, error) from error
            left = left[got:]
        return data


class MappedFile:
    """The first `size` (at least 1) bytes of a file, memory-mapped. Access `numbers` only inside `whole()`."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        with open(path, "rb") as file:
            there = os.fstat(file.fileno()).st_size
            if there < size:
                raise UnreadableError.cut(path, there, size)
            self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)

    def numbers(self, dtype: str, count: int, offset: int = 0) -> npt.NDArray[Any]:
        """Return `count` numbers of one dtype that start `offset` bytes into the file."""
        return np.frombuffer(self._map, dtype=dtype, count=count, offset=offset)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Check the file's size before and after the block. Raises UnreadableError when it was truncated."""
        self._check_size()
        yield
        self._check_size()

    def _check_size(self) -> None:
        try:
            there = size_on_disk(self._map)
        except OSError as error:
            raise UnreadableError.failed(self.path, error) from error
        if there < self.size:
            raise UnreadableError.cut(self.path, there, self.size)
