"""A long array that is written once, front to back: its front in memory, the rest in an unlinked file."""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

HELD_BYTES = 5 << 28
"""Bytes kept in memory: 1.25 GiB."""
MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0)


class Spool:
    """Pieces of one dtype, appended in order and read by item index; `len` counts items."""

    def __init__(
        self, folder: Path | None, name: str, dtype: npt.DTypeLike, most: int, held_bytes: int | None = None
    ) -> None:
        """Reserve space for `most` items: `held_bytes` (HELD_BYTES) in memory and the rest in a file in `folder`.

        Without a folder everything is kept in memory. Memory that has not been written yet costs nothing.
        """
        self.dtype = np.dtype(dtype)
        self._path = folder / f".{name}.spool" if folder is not None else None
        held = most * self.dtype.itemsize
        if self._path is not None:
            held = min(held, HELD_BYTES if held_bytes is None else held_bytes)
        self._memory = mmap.mmap(-1, max(1, held), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            self._memory.madvise(mmap.MADV_HUGEPAGE)
        self._held: Array = np.frombuffer(self._memory, self.dtype, held // self.dtype.itemsize)
        self._length = 0
        self._in_memory = 0
        self._descriptor = -1

    def __len__(self) -> int:
        return self._length

    def append(self, piece: Array) -> None:
        """Append a piece [n]."""
        assert piece.dtype == self.dtype, f"{piece.dtype} in a spool of {self.dtype}"
        start, self._length = self._length, self._length + len(piece)
        if start == self._in_memory and self._length <= len(self._held):
            self._held[start : self._length] = piece
            self._in_memory = self._length
        else:
            self._write(np.ascontiguousarray(piece).view(np.uint8).data)

    @property
    def held(self) -> Array:
        """Return the items in memory, without copying; the rest is in the file."""
        return self._held[: self._in_memory]

    def read(self, first: int, last: int, into: Array | None = None) -> Array:
        """Return items [first, last) of one piece: a view if they are in memory.

        Items in the file are read into the front of `into`, if given.
        """
        if last <= self._in_memory:
            return self._held[first:last]
        array = np.empty(last - first, dtype=self.dtype) if into is None else into[: last - first]
        data = array.view(np.uint8).data
        start, done = (first - self._in_memory) * self.dtype.itemsize, 0
        while done < len(data):
            done += os.preadv(self._descriptor, [data[done:]], start + done)
        return array

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the memory (once its last view is gone) and the file."""
        self._held = np.zeros(0, self.dtype)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, view: memoryview) -> None:
        assert self._path is not None
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            os.unlink(self._path)  # its space is freed however this process ends
        while len(view):
            view = view[os.write(self._descriptor, view) :]
