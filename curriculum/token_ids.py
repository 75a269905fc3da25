"""Where the token ids of a slice live: in one mapped file, or in several that are read as if they lay end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

MOST_OPEN = 128  # a mapped file holds a file handle; a slice can have more files than a process may open


@dataclass(frozen=True)
class NumberFile:
    """A stretch of a file that holds `count` numbers of one type."""

    path: Path
    dtype: str
    """A numpy type with its byte order, as "<u2"."""
    count: int
    offset: int = 0
    """Bytes of the file before the first number."""

    def map(self) -> npt.NDArray[Any]:
        """Memory-map the numbers for reading, [count]."""
        if self.count == 0:  # an empty file cannot be mapped
            return np.zeros(0, dtype=self.dtype)
        return np.memmap(self.path, dtype=self.dtype, mode="r", offset=self.offset, shape=(self.count,))


class TokenIds:
    """One long row of token ids. Places count from the first id of the first file."""

    def __init__(self, files: Sequence[NumberFile], length: int) -> None:
        """`length` is that of the rows that will be read."""
        self._files, self._length = list(files), length
        self._ends = np.cumsum([file.count for file in files], dtype=np.int64)
        self._open = lru_cache(maxsize=MOST_OPEN)(self._opened)
        if len(self._files) == 1:
            self._open(0)

    def rows(self, starts_N: IntArray) -> npt.NDArray[np.integer[Any]]:
        """Return the ids from each start on, integers [N, length]. No row may run from one file into the next."""
        if len(self._files) == 1:
            only: npt.NDArray[np.integer[Any]] = self._open(0)[1][starts_N]
            return only
        out = np.empty((len(starts_N), self._length), dtype=np.int64)
        file_N = np.searchsorted(self._ends, starts_N, side="right")
        for number in np.unique(file_N).tolist():
            chosen_N = np.flatnonzero(file_N == number)
            out[chosen_N] = self._open(number)[1][starts_N[chosen_N] - self._first(number)]
        return out

    def span(self, start: int, stop: int) -> IntArray:
        """Return the ids from `start` up to `stop`, int64 [stop - start]; both lie in the same file."""
        if stop <= start:
            return np.zeros(0, dtype=np.int64)
        number = int(np.searchsorted(self._ends, start, side="right"))
        first = self._first(number)
        return np.asarray(self._open(number)[0][start - first : stop - first], dtype=np.int64)

    def _first(self, number: int) -> int:
        return int(self._ends[number]) - self._files[number].count

    def _opened(self, number: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Return a file's ids [count] and its rows [count - length + 1, length]; there are none in a shorter file."""
        ids = self._files[number].map()
        if len(ids) < self._length:
            return ids, np.zeros((0, self._length), dtype=ids.dtype)
        return ids, np.lib.stride_tricks.sliding_window_view(ids, self._length)
