"""Token ids of a slice, memory-mapped from one file or from several that are read as if concatenated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from curriculum.artifact.blocks import BlockArray
from curriculum.artifact.guard import BLOCK_BYTES, Digests, Guard
from curriculum.artifact.mapped import OpenFile

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
    digests: Digests | None = field(default=None, compare=False, repr=False)
    """Checksums of its blocks; None: it has none."""

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
        assert file.offset == 0, "numbers begin where their file does"
        self._file, self._array = file, BlockArray(file.path, file.dtype, file.count, file.digests)

    def __len__(self) -> int:
        return self._file.count

    @overload
    def __getitem__(self, where: int) -> int: ...
    @overload
    def __getitem__(self, where: slice) -> npt.NDArray[Any]: ...
    def __getitem__(self, where: int | slice) -> int | npt.NDArray[Any]:
        """Raises UnreadableError if the file was truncated or is damaged there."""
        if isinstance(where, slice):
            return self._array[where]
        index = where + len(self) if where < 0 else where
        if not 0 <= index < len(self):
            raise IndexError(f"index {where} is out of range for the {len(self)} numbers of {self._file.path}")
        return int(self._array[index : index + 1][0])


@dataclass(frozen=True)
class _Opened:
    """A mapped file of token ids."""

    file: OpenFile
    ids: npt.NDArray[Any]
    """[count]"""
    rows: npt.NDArray[Any]
    """[count - length + 1, length]; no rows if the file is shorter than a row."""


class TokenIds:
    """The token ids of several files as one sequence. Places count from the first id of the first file."""

    def __init__(self, files: Sequence[NumberFile], length: int) -> None:
        """`length` is the length of the rows to be read."""
        self._files, self._length = list(files), length
        self._ends = np.cumsum([file.count for file in files], dtype=np.int64)
        self._guards = [Guard(file.path, file.end, file.digests) for file in files]
        self._open = lru_cache(maxsize=MOST_OPEN)(self._opened)
        if len(self._files) == 1:
            self._open(0)

    def rows(self, starts_N: IntArray) -> npt.NDArray[np.integer[Any]]:
        """Return `length` ids from each start, integers [N, length]. No row may cross a file boundary.

        One block among those that are read is compared with its checksum, if it has one and that was not done before;
        once the file has changed, each of them is. Raises UnreadableError if a file was truncated or is damaged.
        """
        if len(self._files) == 1:
            return self._rows(0, starts_N)
        out = np.empty((len(starts_N), self._length), dtype=np.int64)
        file_N = np.searchsorted(self._ends, starts_N, side="right")
        for number in np.unique(file_N).tolist():
            chosen_N = np.flatnonzero(file_N == number)
            out[chosen_N] = self._rows(number, starts_N[chosen_N] - self._first(number))
        return out

    def span(self, start: int, stop: int) -> IntArray:
        """Return the ids from `start` to `stop`, int64 [stop - start]; both must be in the same file."""
        if stop <= start:
            return np.zeros(0, dtype=np.int64)
        number = int(np.searchsorted(self._ends, start, side="right"))
        first = self._first(number)
        opened, guard = self._open(number), self._guards[number]
        if guard.intact(opened.file):
            ids = opened.ids[start - first : stop - first].astype(np.int64)
            guard.sample(opened.file, self._blocks(number, np.array([start - first]), stop - start))
            if guard.intact(opened.file):
                return ids
        return self._verified(number, start - first, stop - first).astype(np.int64)

    def recheck(self) -> None:
        """Raise UnreadableError unless all that was read before this call was intact."""
        for number, guard in enumerate(self._guards):
            if guard.in_use:
                guard.recheck(self._open(number).file)

    def _rows(self, number: int, starts_N: IntArray) -> npt.NDArray[np.integer[Any]]:
        """Return rows of one file; starts count from its first id."""
        opened, guard = self._open(number), self._guards[number]
        if guard.intact(opened.file):
            rows: npt.NDArray[np.integer[Any]] = opened.rows[starts_N]
            guard.sample(opened.file, self._blocks(number, starts_N, self._length))
            if guard.intact(opened.file):
                return rows
        return np.stack([self._verified(number, start, start + self._length) for start in starts_N.tolist()])

    def _verified(self, number: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Return ids of one file whose blocks were compared with their checksums."""
        file, size = self._files[number], np.dtype(self._files[number].dtype).itemsize
        bounds = file.offset + start * size, file.offset + stop * size
        return self._guards[number].verified(self._open(number).file, *bounds).view(file.dtype)

    def _blocks(self, number: int, starts_N: IntArray, length: int) -> IntArray:
        """Return the first and the last block of each stretch of `length` ids, [2 N]."""
        file, size = self._files[number], np.dtype(self._files[number].dtype).itemsize
        first_N = file.offset + starts_N * size
        blocks: IntArray = np.concatenate((first_N, first_N + length * size - 1)) // BLOCK_BYTES
        return blocks

    def _first(self, number: int) -> int:
        return int(self._ends[number]) - self._files[number].count

    def _opened(self, number: int) -> _Opened:
        file = self._files[number]
        opened = OpenFile(file.path, file.end, mapped=True)
        ids = opened.numbers(file.dtype, file.count, file.offset)
        self._guards[number].intact(opened)
        if len(ids) < self._length:
            return _Opened(opened, ids, np.zeros((0, self._length), dtype=ids.dtype))
        return _Opened(opened, ids, np.lib.stride_tricks.sliding_window_view(ids, self._length))
