"""Work on several cores that leaves results in their order."""

from __future__ import annotations

import os
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


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def prefetched(items: Iterator[T]) -> Iterator[T]:
    """Yield what `items` yields, each fetched by another thread while its predecessor is in use.

    Its exceptions are raised in their place. Nothing is counted by fetching: what is fetched and never used is as if it
    had not been.
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="prefetch") as pool:
        upcoming: Future[Any] = pool.submit(next, items, end)
        while (item := upcoming.result()) is not end:
            upcoming = pool.submit(next, items, end)
            yield item


class Sums:
    """Arrays that several threads add to, each thread to one of its own; `total` is their sum."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._shape = shape
        self._free: queue.SimpleQueue[NDArray[np.int64]] = queue.SimpleQueue()
        self._all: list[NDArray[np.int64]] = []

    @contextmanager
    def one(self) -> Iterator[NDArray[np.int64]]:
        """Lend an array that no other thread has, int64, zero at first."""
        try:
            array = self._free.get_nowait()
        except queue.Empty:
            array = np.zeros(self._shape, dtype=np.int64)
            self._all.append(array)
        yield array
        self._free.put(array)

    def total(self) -> NDArray[np.int64]:
        """Return the sum; whole numbers, so that no order of adding changes it."""
        total = np.zeros(self._shape, dtype=np.int64)
        for array in self._all:
            total += array
        return total


class Buffers:
    """Arrays that are used again, on any thread: the system clears new memory page by page, and that takes time."""

    def __init__(self, dtype: npt.DTypeLike) -> None:
        self.dtype = np.dtype(dtype)
        self._free: queue.SimpleQueue[NDArray[Any]] = queue.SimpleQueue()

    def lend(self, size: int) -> NDArray[Any]:
        """Lend an array [size] that nobody else has, with anything in it."""
        try:
            array = self._free.get_nowait()
        except queue.Empty:
            array = np.empty(0, dtype=self.dtype)
        if len(array) < size:
            array = np.empty(1 << max(0, size - 1).bit_length(), dtype=self.dtype)
        return array[:size]

    def give_back(self, array: NDArray[Any]) -> None:
        """Take back what was lent, or any part of it that begins where it began."""
        self._free.put(array if array.base is None else array.base)


def mapped(work: Callable[[T], R], items: Iterable[T], workers: int) -> Iterator[R]:
    """Yield work(item) in the order of the items, `workers` at a time on threads (for work that releases the lock)."""
    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[Future[R]] = deque()
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
