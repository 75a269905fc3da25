"""The sampler: which samples does a rank read next? Arithmetic on the order and the cursor, no state beside it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Ids(Protocol):
    """Anything that gives sample ids by position: an Order, or an int array."""

    def __len__(self) -> int: ...
    def __getitem__(self, where: slice, /) -> NDArray[np.int64]: ...


class CurriculumSampler:
    """Iterate lists of this rank's sample ids, one list a step, from a cursor on.

    `batch_size` is global: step after step the ranks read consecutive parts of the same `batch_size` positions, so the
    global batch is the same at any world size. The last batch may be shorter; its parts differ by one sample at most.
    `cursor` counts the samples that all ranks together have been given; a new sampler with the same cursor goes on from
    there, at any world size. Use it as the `batch_sampler` of a torch DataLoader, or alone.
    """

    def __init__(self, order: Ids, batch_size: int, rank: int, world_size: int, cursor: int = 0) -> None:
        if batch_size < 1:
            raise ValueError(f"sampler: batch_size={batch_size} must be at least 1")
        if not 0 <= rank < world_size:
            raise ValueError(f"sampler: rank={rank} must lie in [0, world_size={world_size})")
        if batch_size % world_size:
            fits = [size for size in range(1, batch_size + 1) if batch_size % size == 0]
            raise ValueError(
                f"sampler: batch_size={batch_size} cannot be split over world_size={world_size} ranks: "
                f"use one of {fits}"
            )
        if not 0 <= cursor <= len(order):
            raise ValueError(f"sampler: cursor={cursor} lies outside an order of {len(order)} samples")
        if cursor % batch_size and cursor != len(order):
            raise ValueError(f"sampler: cursor={cursor} is not at the start of a batch of {batch_size} samples")
        self.order = order
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.cursor = cursor

    def __len__(self) -> int:
        """Return the number of steps that are left."""
        return -(-(len(self.order) - self.cursor) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        while self.cursor < len(self.order):
            start, stop = rank_part(
                self.cursor, min(self.batch_size, len(self.order) - self.cursor), self.rank, self.world_size
            )
            ids = self.order[start:stop].tolist()
            self.cursor = min(self.cursor + self.batch_size, len(self.order))
            yield ids


def rank_part(start: int, count: int, rank: int, world_size: int) -> tuple[int, int]:
    """Return the positions [i, j) that a rank reads of the `count` positions from `start` on."""
    return start + count * rank // world_size, start + count * (rank + 1) // world_size
