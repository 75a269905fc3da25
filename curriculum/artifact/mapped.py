"""Files that are read in place for hours: truncating one in the meantime raises an error that names it.

Accessing the missing part of a truncated mapped file kills the process (SIGBUS), or returns zeros up to the end of its
last page. So a file is mapped only where one system call per sample would be too slow, and is then accessed only
between two looks at its size; all other files are read. An open file stays the same file when its name is removed or
reused. What else may happen to it is the subject of curriculum/artifact/guard.py.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from curriculum.artifact.files import ArtifactError


class UnreadableError(ArtifactError):
    """A file that was intact when it was opened can no longer be read, or is damaged."""

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


class Stamp(NamedTuple):
    """What a file system says of an open file. It differs once somebody has written to the file.

    `changed_ns` also differs after a change of its permissions, owner or number of names; `modified_ns` can be set back
    (cp -p), `changed_ns` cannot.
    """

    inode: int
    size: int
    modified_ns: int
    changed_ns: int

    @classmethod
    def of(cls, file: int | Path) -> Stamp:
        """Return the stamp of an open file, given its descriptor, or of the file at a path."""
        there = os.stat(file)
        return cls(there.st_ino, there.st_size, there.st_mtime_ns, there.st_ctime_ns)

    def difference(self, now: Stamp) -> str:
        """Return what differs in a later stamp of the same path, worded for a message."""
        if now.inode != self.inode:
            return "another file has taken its place"
        if now.size != self.size:
            return f"its size changed from {self.size} to {now.size} bytes"
        if now.modified_ns != self.modified_ns:
            return f"it was written to (modified {_time(self.modified_ns)} before, {_time(now.modified_ns)} now)"
        return f"its permissions, its names or, with its old time kept, its contents changed at {_time(now.changed_ns)}"


class OpenFile:
    """The first `size` bytes of a file, read on demand. Any number of threads may read."""

    def __init__(self, path: Path, size: int, mapped: bool = False) -> None:
        """Open a file; `mapped`: also map it, for `numbers`. Raises UnreadableError if it is too short."""
        self.path, self.size = path, size
        self._map: mmap.mmap | None = None
        try:
            self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed with this object)
        except FileNotFoundError:
            raise
        except OSError as error:
            raise UnreadableError.failed(path, error) from error
        self._descriptor = self._file.fileno()
        if mapped:
            self.stamp()
            self._map = mmap.mmap(self._descriptor, size, access=mmap.ACCESS_READ) if size else None

    def stamp(self) -> Stamp:
        """Return the file's current stamp. Raises UnreadableError when it was truncated or cannot be reached."""
        try:
            stamp = Stamp.of(self._descriptor)
        except OSError as error:
            raise UnreadableError.failed(self.path, error) from error
        if stamp.size < self.size:
            raise UnreadableError.cut(self.path, stamp.size, self.size)
        return stamp

    def unchanged(self, stamp: Stamp) -> bool:
        """Return whether the file has the stamp that it had before: `stamp() == stamp`, but fast and without errors."""
        try:
            there = os.fstat(self._descriptor)
        except OSError:
            return False
        return (there.st_ino, there.st_size, there.st_mtime_ns, there.st_ctime_ns) == stamp

    def refreshed(self) -> Stamp:
        """Return the stamp after asking a network file system's server, which opening the file again does."""
        with suppress(OSError), open(self.path, "rb", buffering=0) as again:
            os.fstat(again.fileno())
        return self.stamp()

    def read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Return a copy of the bytes [start, stop). Raises UnreadableError when they cannot be read."""
        data = np.empty(stop - start, dtype=np.uint8)
        left = data.data
        while left:
            try:
                got = os.preadv(self._descriptor, [left], stop - len(left))
                if got == 0:
                    raise UnreadableError.cut(self.path, os.fstat(self._descriptor).st_size, self.size)
            except OSError as error:
                raise UnreadableError.failed(self.path, error) from error
            left = left[got:]
        return data

    def numbers(self, dtype: str, count: int, offset: int = 0) -> npt.NDArray[Any]:
        """Return `count` mapped numbers that start `offset` bytes into the file.

        Access them only between two calls of `stamp`.
        """
        if self._map is None or count == 0:
            return np.zeros(0, dtype=dtype)
        return np.frombuffer(self._map, dtype=dtype, count=count, offset=offset)


def _time(nanoseconds: int) -> str:
    return datetime.fromtimestamp(nanoseconds / 10**9).isoformat(" ", "milliseconds")
