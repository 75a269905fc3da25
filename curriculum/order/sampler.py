"""The sampler: which samples does a rank read next? Arithmetic on the order and the cursor, with no other state."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from curriculum.order.split import Split, cursor_after


class Ids(Protocol):
    """Anything that returns sample ids by position: an Order, or an int array."""

    def __len__(self) -> int: ...
    def __getitem__(self, where: slice, /) -> NDArray[np.int64]: ...


class CurriculumSampler:
    """Iterate over lists of this rank's sample ids, starting at a cursor: one list per step, or one per micro-batch.

    `batch_size` is global and `micro_batch_size` per rank; `Split` defines how a batch is cut, the same at any world
    size. Every rank gets the same number of lists; in a partial last step they may be shorter, or empty.
    `cursor` counts the samples that all ranks together have consumed in whole steps: it moves with the last list of a
    step. A new sampler with the same cursor resumes there, at any world size and micro-batch size.

    Use it directly, or as the `batch_sampler` of a torch DataLoader. A DataLoader with workers prefetches, which moves
    `cursor` ahead of training: resume from `cursor_after(completed steps, ...)` instead.
    """

    def __init__(
        self,
        order: Ids,
        batch_size: int,
        rank: int,
        world_size: int,
        cursor: int = 0,
        micro_batch_size: int | None = None,
    ) -> None:
        self.split = Split(batch_size, world_size, micro_batch_size)
        if not 0 <= rank < world_size:
            raise ValueError(f"sampler: rank={rank} must be in [0, world_size={world_size})")
        if not 0 <= cursor <= len(order):
            raise ValueError(f"sampler: cursor={cursor} is outside an order of {len(order)} samples")
        if cursor % batch_size and cursor != len(order):
            before = cursor - cursor % batch_size
            raise ValueError(
                f"sampler: cursor={cursor} is not at the start of a batch of {batch_size} samples: "
                f"use {before}, or {cursor_after(before // batch_size + 1, batch_size, len(order))}"
            )
        self.order = order
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.cursor = cursor

    def __len__(self) -> int:
        """Return the number of lists left, counted in whole steps."""
        return -(-(len(self.order) - self.cursor) // self.batch_size) * self.split.accumulation

    def __iter__(self) -> Iterator[list[int]]:
        while self.cursor < len(self.order):
            stop = min(self.cursor + self.batch_size, len(self.order))
            edges = self.split.edges(self.cursor, stop, self.rank)
            ids = self.order[edges[0] : edges[-1]].tolist()
            *earlier, last = [ids[i:j] for i, j in pairwise((edges - edges[0]).tolist())]
            yield from earlier
            self.cursor = stop
            yield last
