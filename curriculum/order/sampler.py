"""The sampler: which samples does a rank read next? Arithmetic on the order and the cursor, with no other state."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from curriculum.order.split import Split, divisors, listed


class Ids(Protocol):
    """Anything that returns sample ids by position: an Order, or an int array."""

    def __len__(self) -> int: ...
    def __getitem__(self, where: slice, /) -> NDArray[np.int64]: ...


class CurriculumSampler:
    """Iterate over lists of this rank's sample ids, starting at a cursor: one list per step, or one per micro-batch.

    `batch_size` is global, and an Order's own; `micro_batch_size` is per rank; `Split` defines how a batch is cut, the
    same at any world size. Every rank gets the same number of lists. In a partial last step there are as many as the
    rank with the most samples fills: they may be shorter, and on other ranks empty. `drop_last` leaves that step out,
    `dropped` samples.

    `cursor` counts the samples that all ranks together have consumed in whole steps: it moves with the last list of a
    step. A sampler is read once; a new one with the same cursor resumes there, at any world size and micro-batch size.

    Use it directly, or as the `batch_sampler` of a torch DataLoader. A DataLoader with workers prefetches, which moves
    `cursor` ahead of training: resume from `cursor_after(completed steps, ...)` instead. Accelerate, and with it
    Trainer, deal lists out to the ranks themselves: `for_accelerate`.
    """

    def __init__(
        self,
        order: Ids,
        batch_size: int,
        rank: int,
        world_size: int,
        cursor: int = 0,
        micro_batch_size: int | None = None,
        drop_last: bool = False,
    ) -> None:
        arranged = getattr(order, "batch_size", batch_size)
        if batch_size != arranged:
            raise ValueError(
                f"sampler: batch_size={batch_size} is not the order's {arranged}, for which it was planned: use "
                f"batch_size={arranged} (samples per step over all ranks), or arrange with batch_size={batch_size}"
            )
        self.split = Split(batch_size, world_size, micro_batch_size)
        if not 0 <= rank < world_size:
            raise ValueError(f"sampler: rank={rank} must be in [0, world_size={world_size})")
        if not 0 <= cursor <= len(order):
            raise ValueError(f"sampler: cursor={cursor} is outside an order of {len(order)} samples")
        first: int = getattr(order, "first_cursor", 0)
        if cursor < first:
            raise ValueError(
                f"sampler: cursor={cursor} is in the part of the order that was read in batches of another size: it "
                f"continues a run at cursor={first}, in batches of {batch_size}"
            )
        if (cursor - first) % batch_size and cursor != len(order):
            before = cursor - (cursor - first) % batch_size
            raise ValueError(
                f"sampler: cursor={cursor} is not at the start of a batch of {batch_size} samples: "
                f"use {before}, or {min(before + batch_size, len(order))}"
            )
        self.order = order
        self.rank = rank
        self.world_size = world_size
        self.cursor = cursor
        self.dropped = (len(order) - first) % batch_size if drop_last else 0
        """Samples of the partial last step that `drop_last` leaves out."""
        self._start, self._end = cursor, max(cursor, len(order) - self.dropped)
        self._begun = False

    @classmethod
    def for_accelerate(
        cls, order: Ids, processes: int, accumulation: int = 1, cursor: int = 0, drop_last: bool = False
    ) -> CurriculumSampler:
        """Return a sampler of an Order for a DataLoader that `accelerator.prepare` deals out to `processes` ranks.

        The same on every rank: all lists of all ranks, in order. Accelerate gives every rank one list in turn, so
        `accumulation` lists per rank are a step. Unless `drop_last`, accelerate fills a partial last step with samples
        from the beginning. Raises ValueError if the order's batch does not divide by processes * accumulation.
        """
        batch_size: int = getattr(order, "batch_size", 0)
        part = Split(batch_size, processes).part_size
        if accumulation < 1 or part % accumulation:
            raise ValueError(
                f"sampler: accumulation={accumulation} does not divide a rank's {part} of the order's {batch_size} "
                f"samples per step on {processes} ranks: use one of {listed(divisors(part), accumulation)}"
            )
        return cls(order, batch_size, 0, 1, cursor, part // accumulation, drop_last)

    @property
    def batch_size(self) -> int:
        """Samples in a full list, as in torch's BatchSampler: what accelerate cuts batches by.

        Raises ValueError if the sampler already has a part of every batch: accelerate would cut it again.
        """
        if self.world_size > 1:
            raise ValueError(
                f"sampler: its lists are already the part of rank {self.rank} of {self.world_size}; who asks for their "
                "batch_size would divide them over the ranks again and lose samples: use "
                "CurriculumSampler.for_accelerate for accelerator.prepare and Trainer; elsewhere do not let the loader "
                "distribute this one (Lightning: use_distributed_sampler=False)"
            )
        return self.split.micro_batch_size or self.split.part_size

    def __len__(self) -> int:
        """Return the number of lists from the cursor that the sampler was built with; it stays while they are read."""
        whole, rest = divmod(self._end - self._start, self.split.batch_size)
        return whole * self.split.accumulation + self.split.lists_of(rest)

    def __iter__(self) -> Iterator[list[int]]:
        if self._begun:  # only now: a DataLoader with workers makes two iterators and reads the second
            raise ValueError(self._read_before())
        self._begun = True
        while self.cursor < self._end:
            stop = min(self.cursor + self.split.batch_size, self._end)
            edges = self.split.edges(self.cursor, stop, self.rank)
            ids = self.order[edges[0] : edges[-1]].tolist()
            lists = [ids[i:j] for i, j in pairwise((edges - edges[0]).tolist())]
            *earlier, last = lists[: self.split.lists_of(stop - self.cursor)]
            yield from earlier
            self.cursor = stop
            yield last

    def _read_before(self) -> str:
        if self.cursor >= self._end:
            return (
                f"sampler: the order's {len(self.order)} samples have been read, and an order is one pass: train for "
                "one epoch; to use samples more often, arrange with preference.uses; to read the same order again, "
                "build a new CurriculumSampler"
            )
        return (
            f"sampler: it has been read up to cursor={self.cursor}, which a DataLoader's prefetch may have moved ahead "
            "of training, and is read once: build a new CurriculumSampler with "
            "cursor=cursor_after(steps done, order.batch_size, len(order))"
        )
