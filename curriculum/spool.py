"""A queue of arrays that stays in memory while it is small and goes to a file that nobody sees when it is not."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

HELD_BYTES = 1 << 28
"""What is kept in memory."""


class Spool:
    """Pieces of one type, appended in turn and read in part; `len` counts them."""

    def __init__(self, folder: Path | None, name: str, dtype: npt.DTypeLike, held_bytes: int = HELD_BYTES) -> None:
        """Keep `held_bytes` in memory and the rest in a file in `folder`; without a folder, everything in memory."""
        self.dtype = np.dtype(dtype)
        self._path = folder / f".{name}.spool" if folder is not None else None
        self._held_bytes = held_bytes
        self._bytes = 0
        self._descriptor = -1
        self._pieces: list[Array | int] = []  # an array, or where it begins in the file
        self._sizes: list[int] = []
        self._file_end = 0

    def __len__(self) -> int:
        return len(self._pieces)

    def append(self, piece: Array) -> None:
        """Keep a piece [n]."""
        assert piece.dtype == self.dtype, f"{piece.dtype} in a spool of {self.dtype}"
        self._sizes.append(len(piece))
        if self._path is None or self._bytes + piece.nbytes <= self._held_bytes:
            self._bytes += piece.nbytes
            self._pieces.append(piece)
            return
        self._pieces.append(self._file_end)
        self._write(np.ascontiguousarray(piece).view(np.uint8).data)

    def read(self, piece: int, first: int = 0, last: int | None = None) -> Array:
        """Return items first to last of a piece."""
        last = self._sizes[piece] if last is None else last
        where = self._pieces[piece]
        if not isinstance(where, int):
            return where[first:last]
        size = self.dtype.itemsize
        data = bytearray((last - first) * size)
        done = 0
        while done < len(data):
            done += os.preadv(self._descriptor, [memoryview(data)[done:]], where + first * size + done)
        return np.frombuffer(data, dtype=self.dtype)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of memory and file."""
        self._pieces.clear()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, view: memoryview) -> None:
        assert self._path is not None
        if self._descriptor < 0:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            os.unlink(self._path)  # its space is given back however this process ends
        while len(view):
            written = os.write(self._descriptor, view)
            self._file_end += written
            view = view[written:]
