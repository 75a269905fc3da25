"""Preferences: how much each bucket of the corpus is wanted at each moment of training.

Shapes: S steps, K buckets. A preference says what is wished; `curriculum/plan` makes it feasible.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STEEPEST = 1000.0
"""Largest steepness of a logistic: e^-500, its share at either end of training, is still a number above zero."""


@dataclass(frozen=True)
class Preference:
    """What every preference has. Choose one with `preference=NAME`."""

    name: str = "shuffled"
    """Name in the registry."""
    score: str = ""
    """Score column that cuts the corpus into buckets; empty: no scores are needed."""
    buckets: int = 1
    """Number of buckets, equal in tokens."""

    def __post_init__(self) -> None:
        if self.buckets < 1:
            raise ValueError(f"preference.buckets={self.buckets} must be at least 1")
        if (self.buckets > 1) != bool(self.score):
            raise ValueError(
                f"preference.score={self.score!r} does not fit preference.buckets={self.buckets}: "
                "a score cuts two or more buckets"
            )

    def affinity(self, progress_S: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the wish [S, K] at training progress in [0, 1]."""
        return np.ones((len(progress_S), self.buckets))


@dataclass(frozen=True)
class Shuffled(Preference):
    """One bucket: a uniform shuffle, the baseline of every comparison."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.buckets != 1:
            raise ValueError(f"preference.buckets={self.buckets}: a shuffled order has one bucket")


@dataclass(frozen=True)
class Pdpc(Preference):
    """Two buckets cut at the median by tokens; the high one's share follows a logistic in progress.

    share(p) = floor + (ceiling - floor) / (1 + exp(-steepness * (p - 1/2))). The S shape is the paper's (arXiv
    2501.13126); two buckets, the median and steepness 10 are our choice. A negative steepness is the reverse order.
    With floor 0 and ceiling 1 both shares stay above zero at every step, so that every sample can be placed.
    """

    name: str = "pdpc"
    score: str = "pd"
    buckets: int = 2
    steepness: float = 10.0
    """Steepness of the rise per unit of progress; 0: a shuffle; 1000, the most: nearly a sort; below 0: reversed."""
    floor: float = 0.0
    """Share of the high bucket that the logistic rises from."""
    ceiling: float = 1.0
    """Share of the high bucket that the logistic rises to."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.buckets != 2:
            raise ValueError(f"preference.buckets={self.buckets}: pdpc has two buckets")
        if not 0.0 <= self.floor < self.ceiling <= 1.0:
            raise ValueError(
                f"preference.floor={self.floor} and preference.ceiling={self.ceiling} "
                "must hold 0 <= floor < ceiling <= 1"
            )
        if not abs(self.steepness) <= STEEPEST:
            raise ValueError(
                f"preference.steepness={self.steepness} must be a number from {-STEEPEST:g} to {STEEPEST:g}: beyond, a "
                "bucket's share would be zero in floating point; 1000 sorts all but the middle of training already"
            )

    def affinity(self, progress_S: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return [1 - share, share] at every step, [S, 2].

        The low share is a logistic of its own: 1 - share would be zero where share rounds to one.
        """
        exponent_S = self.steepness * (progress_S - 0.5)
        span = self.ceiling - self.floor
        low_S = (1.0 - self.ceiling) + span / (1.0 + np.exp(exponent_S))
        high_S = self.floor + span / (1.0 + np.exp(-exponent_S))
        return np.stack([low_S, high_S], axis=1)


PREFERENCES: dict[str, type[Preference]] = {"shuffled": Shuffled, "pdpc": Pdpc}
"""Names that a config may choose."""
