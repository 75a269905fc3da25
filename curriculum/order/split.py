"""The split: how a step's positions of the order are cut over ranks and micro-batches. Stateless arithmetic.

A step's positions are cut into one consecutive part per rank, and a rank's part into `accumulation` consecutive
micro-batches. Concatenated by rising rank, and by rising micro-batch within a rank, they are the global batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LISTED = 16
"""Maximum number of choices listed in a message."""


@dataclass(frozen=True)
class Split:
    """A way to cut a global batch. Raises ValueError for one that does not divide evenly, listing those that do."""

    batch_size: int
    """Samples in a global batch."""
    world_size: int = 1
    """Ranks."""
    micro_batch_size: int | None = None
    """Samples in a micro-batch; None: a rank's whole part is one micro-batch."""

    def __post_init__(self) -> None:
        for key in ("batch_size", "world_size", "micro_batch_size"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key}={value} must be at least 1")
        batch, ranks, micro = self.batch_size, self.world_size, self.micro_batch_size
        if batch % ranks:
            fits = divisors(batch)
            now = [size for size in fits if batch // size % (micro or 1) == 0]
            also = f" (those that fit micro_batch_size={micro}: {listed(now, ranks)})" if now != fits else ""
            raise ValueError(
                f"world_size={ranks} does not divide the order's batch of {batch} samples: "
                f"use one of world_size={listed(fits, ranks)}{also}"
            )
        if micro and batch // ranks % micro:
            raise ValueError(
                f"micro_batch_size={micro} on {ranks} ranks does not divide the order's batch of {batch} samples: "
                f"use one of micro_batch_size={listed(divisors(batch // ranks), micro)}"
            )

    @property
    def part_size(self) -> int:
        """Samples per rank in a full batch."""
        return self.batch_size // self.world_size

    @property
    def accumulation(self) -> int:
        """Micro-batches per rank and step, including the last step."""
        return self.part_size // (self.micro_batch_size or self.part_size)

    def lists_of(self, samples: int) -> int:
        """Return how many micro-batches of a step of `samples` samples are not empty on every rank.

        The last rank's part is the longest of a partial step.
        """
        longest = -(-samples // self.world_size)
        return -(-longest // (self.micro_batch_size or self.part_size))

    def edges(self, start: int, stop: int, rank: int | NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where a rank's micro-batches begin and end, int64 [accumulation + 1] ([ranks, ...] for many ranks).

        `start` and `stop` are the positions of one step; micro-batch j is positions edges[j] to edges[j + 1]. In a
        partial step the ranks' parts differ by at most one sample, and each fills its micro-batches from the first
        on: the last ones are shorter, or empty. O(accumulation) for one rank.
        """
        assert 0 <= start <= stop <= start + self.batch_size, f"[{start}, {stop}) is not one step"
        rank_R1 = np.asarray(rank, dtype=np.int64)[..., None]
        first_R1 = start + (stop - start) * rank_R1 // self.world_size
        last_R1 = start + (stop - start) * (rank_R1 + 1) // self.world_size
        offsets = np.arange(self.accumulation + 1) * (self.micro_batch_size or self.part_size)
        edges: NDArray[np.int64] = np.minimum(first_R1 + offsets, last_R1)
        return edges


def cursor_after(steps: int, batch_size: int, samples: int) -> int:
    """Return the cursor after `steps` steps of an order of `samples` samples: where a trainer resumes."""
    return min(steps * batch_size, samples)


def divisors(number: int) -> list[int]:
    """Return the divisors of a number in rising order. O(number)."""
    return [size for size in range(1, number + 1) if number % size == 0]


def listed(choices: list[int], asked: int) -> str:
    """Return choices as text; for a long list, those nearest to `asked` and how many there are in total."""
    if len(choices) <= LISTED:
        return str(choices)
    middle = int(np.searchsorted(choices, asked))
    first = min(max(0, middle - LISTED // 2), len(choices) - LISTED)
    return f"{choices[first : first + LISTED]} (the nearest of {len(choices)})"
