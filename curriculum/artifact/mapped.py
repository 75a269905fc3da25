"""Files that are read in place for hours: one that is cut meanwhile is an error that names it.

A mapped file that is cut ends whoever touches what is gone (SIGBUS), or shows zeros up to the end of its last page. So
a file is mapped only where a system call a sample would be too slow, and then between two looks at its size; the others
are read. A file that was opened stays the same file when its name is removed or given to another.
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

from curriculum.artifact.manifest import ArtifactError


class UnreadableError(ArtifactError):
    """A file that was whole when it was opened can no longer be read."""

    exit_code = os.EX_IOERR

    @classmethod
    def cut(cls, path: Path, size: int, needed: int) -> UnreadableError:
        """Say that a file has become too short."""
        return cls(
            f"{path} has {size} bytes, {needed} were there when it was opened: it was cut while it was in use; put the "
            "whole file back and run the same command again"
        )

    @classmethod
    def failed(cls, path: Path, error: OSError) -> UnreadableError:
        """Say that the system gave an error instead of bytes."""
        return cls(
            f"{path} cannot be read any more ({error.strerror or error}): look after its disk or file system, then run "
            "the same command again"
        )


def size_on_disk(mapped: mmap.mmap) -> int:
    """Return the size of the file that is mapped, as it is now: another than the map's, once the file was cut."""
    return mapped.size()


class OpenFile:
    """The first `size` bytes of a file, read where they are asked for. Any number of threads may read."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (as long as this object)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UnreadableError.failed(path, error) from error

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Return the bytes from `start` up to `stop`. Raises UnreadableError when they are not there."""
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
    """The first `size` bytes of a file in memory: at least one. Touch `numbers` inside `whole()` alone."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size
        with open(path, "rb") as file:
            there = os.fstat(file.fileno()).st_size
            if there < size:
                raise UnreadableError.cut(path, there, size)
            self._map = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)

    def numbers(self, dtype: str, count: int, offset: int = 0) -> npt.NDArray[Any]:
        """Return numbers of one type, [count], that lie `offset` bytes from the start."""
        return np.frombuffer(self._map, dtype=dtype, count=count, offset=offset)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Look at the file's size before and after what is done inside. Raises UnreadableError when it was cut."""
        self._look()
        yield
        self._look()

    def _look(self) -> None:
        try:
            there = size_on_disk(self._map)
        except OSError as error:
            raise UnreadableError.failed(self.path, error) from error
        if there < self.size:
            raise UnreadableError.cut(self.path, there, self.size)
