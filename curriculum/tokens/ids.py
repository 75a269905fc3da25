"""Token ids of a slice, memory-mapped from one file or from several that are read as if concatenated."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from curriculum.artifact.mapped import MappedFile, OpenFile

IntArray = npt.NDArray[np.int64]

MOST_OPEN = 128  # a mapped file holds a file handle, and a slice can have more files than a process may open


@dataclass(frozen=True)
class NumberFile:
    """A range of a file with `count` numbers of one type."""

    path: Path
    dtype: str
    """A numpy dtype with byte order, such as "<u2"."""
    count: int
    offset: int = 0
    """Bytes of the file before the first number."""

    @property
    def end(self) -> int:
        """Return the file offset after the last number, in bytes."""
        return self.offset + self.count * np.dtype(self.dtype).itemsize

    def map(self) -> npt.NDArray[Any]:
        """Memory-map the numbers for reading, [count]: for data that is read once, sequentially."""
        if self.count == 0:  # an empty file cannot be mapped
            return np.zeros(0, dtype=self.dtype)
        return np.memmap(self.path, dtype=self.dtype, mode="r", offset=self.offset, shape=(self.count,))


class Numbers:
    """The numbers of a file, read on demand: `numbers[i]`, or `numbers[i:j]` as an array."""

    def __init__(self, file: NumberFile) -> None:
        self._file, self._bytes = file, OpenFile(file.path, file.end)

    def __len__(self) -> int:
        return self._file.count

    @overload
    def __getitem__(self, where: int) -> int: ...
    @overload
    def __getitem__(self, where: slice) -> npt.NDArray[Any]: ...
    def __getitem__(self, where: int | slice) -> int | npt.NDArray[Any]:
        """Raises UnreadableError if the file was truncated."""
        if isinstance(where, slice):
            start, stop, step = where.indices(len(self))
            assert step == 1, f"slices of numbers must have step 1, not {step}"
            return self._read(start, max(start, stop))
        index = where + len(self) if where < 0 else where
        if not 0 <= index < len(self):
            raise IndexError(f"index {where} is out of range for the {len(self)} numbers of {self._file.path}")
        return int(self._read(index, index + 1)[0])

    def _read(self, start: int, stop: int) -> npt.NDArray[Any]:
        offset, size = self._file.offset, np.dtype(self._file.dtype).itemsize
        return self._bytes.read(offset + start * size, offset + stop * size).view(self._file.dtype)


@dataclass(frozen=True)
class _Opened:
    """A mapped file of token ids; `mapped` is None if the file is empty."""

    mapped: MappedFile | None
    ids: npt.NDArray[Any]
    """[count]"""
    rows: npt.NDArray[Any]
    """[count - length + 1, length]; no rows if the file is shorter than a row."""

    def whole(self) -> AbstractContextManager[None]:
        """Check the file before and after the reads inside the block."""
        return self.mapped.whole() if self.mapped is not None else nullcontext()


class TokenIds:
    """The token ids of several files as one sequence. Places count from the first id of the first file."""

    def __init__(self, files: Sequence[NumberFile], length: int) -> None:
        """`length` is the length of the rows to be read."""
        self._files, self._length = list(files), length
        self._ends = np.cumsum([file.count for file in files], dtype=np.int64)
        self._open = lru_cache(maxsize=MOST_OPEN)(self._opened)
        if len(self._files) == 1:
            self._open(0)

    def rows(self, starts_N: IntArray) -> npt.NDArray[np.integer[Any]]:
        """Return `length` ids from each start, integers [N, length]. No row may cross a file boundary.

        Raises UnreadableError if a file was truncated.
        """
        if len(self._files) == 1:
            opened = self._open(0)
            with opened.whole():
                only: npt.NDArray[np.integer[Any]] = opened.rows[starts_N]
            return only
        out = np.empty((len(starts_N), self._length), dtype=np.int64)
        file_N = np.searchsorted(self._ends, starts_N, side="right")
        for number in np.unique(file_N).tolist():
            chosen_N = np.flatnonzero(file_N == number)
            opened = self._open(number)
            with opened.whole():
                out[chosen_N] = opened.rows[starts_N[chosen_N] - self._first(number)]
        return out

    def span(self, start: int, stop: int) -> IntArray:
        """Return the ids from `start` to `stop`, int64 [stop - start]; both must be in the same file."""
        if stop <= start:
            return np.zeros(0, dtype=np.int64)
        number = int(np.searchsorted(self._ends, start, side="right"))
        first = self._first(number)
        opened = self._open(number)
        with opened.whole():
            return opened.ids[start - first : stop - first].astype(np.int64)

    def _first(self, number: int) -> int:
        return int(self._ends[number]) - self._files[number].count

    def _opened(self, number: int) -> _Opened:
        file = self._files[number]
        mapped = MappedFile(file.path, file.end) if file.count else None
        ids = mapped.numbers(file.dtype, file.count, file.offset) if mapped else np.zeros(0, dtype=file.dtype)
        if len(ids) < self._length:
            return _Opened(mapped, ids, np.zeros((0, self._length), dtype=ids.dtype))
        return _Opened(mapped, ids, np.lib.stride_tricks.sliding_window_view(ids, self._length))
