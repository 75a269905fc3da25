"""Work on several cores that keeps results in order."""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

T = TypeVar("T")
R = TypeVar("R")


def prefetched(items: Iterator[T]) -> Iterator[T]:
    """Yield `items`, each fetched by another thread while the previous one is in use.

    Exceptions are raised at the position where they occur. Fetching does not count as consuming: an item that was
    fetched but never used may be ignored.
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        upcoming: Future[Any] = pool.submit(next, items, end)
        while (item := upcoming.result()) is not end:
            upcoming = pool.submit(next, items, end)
            yield item


class Sums:
    """Arrays that several threads add to, one per thread at a time; `total` is their sum."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._free: queue.SimpleQueue[NDArray[np.int64]] = queue.SimpleQueue()
        self._all: list[NDArray[np.int64]] = []

    @contextmanager
    def one(self) -> Iterator[NDArray[np.int64]]:
        """Lend an int64 array that no other thread is using, initially zero."""
        try:
            array = self._free.get_nowait()
        except queue.Empty:
            array = np.zeros(self._shape, dtype=np.int64)
            self._all.append(array)
        yield array
        self._free.put(array)

    def total(self) -> NDArray[np.int64]:
        """Return the sum; of integers, so it does not depend on the order of addition."""
        total = np.zeros(self._shape, dtype=np.int64)
        for array in self._all:
            total += array
        return total


class Buffers:
    """Reusable arrays for any thread: the OS clears new memory page by page, which takes time."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self._free: queue.SimpleQueue[NDArray[Any]] = queue.SimpleQueue()

    def lend(self, size: int) -> NDArray[Any]:
        """Lend an array [size] that nobody else is using, with arbitrary contents."""
        try:
            array = self._free.get_nowait()
        except queue.Empty:
            array = np.empty(0, dtype=self.dtype)
        if len(array) < size:
            array = np.empty(1 << max(0, size - 1).bit_length(), dtype=self.dtype)
        return array[:size]

    def give_back(self, array: NDArray[Any]) -> None:
        """Take back a lent array, or any leading part of it."""
        self._free.put(array if array.base is None else array.base)


def mapped(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """Yield work(item) in the order of the items, `workers` at a time on threads (for work that releases the GIL)."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
