"""Batches fetched one ahead, in a thread, while the step before computes."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield what `items` yields, each fetched while its predecessor is in use; its exceptions are raised in its place.

    Nothing is counted by fetching: what is fetched and never used is as if it had not been.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="fetch") as pool:
        upcoming = pool.submit(next, items, None)
        while (item := upcoming.result()) is not None:
            upcoming = pool.submit(next, items, None)
            yield item
