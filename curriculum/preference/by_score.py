"""Preferences that move along a score: from a shuffle to a sort, in two buckets, many, or quadrants.

Shapes: S steps, K buckets. p is progress in [0, 1], q a bucket's mid-quantile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from curriculum.preference.base import FOLD, Counts, Cut, Preference, Progress, ScoreCut, log_shares, middles

STEEPEST = 10_000.0
"""Largest steepness, almost a sort; the wish is kept as a logarithm, so nothing underflows."""


@dataclass(frozen=True)
class Sorted(ScoreCut):
    """A full sort by score: buckets one after the other, and within a bucket by score, ties in random order."""

    name: str = "sorted"
    buckets: int = 16
    """Equal parts used to display the order; it is sorted within each part too."""
    descending: bool = False
    """Sort from the highest score to the lowest."""

    def cuts(self) -> list[Cut]:
        """Cut into folds, each of which is sorted, and then by score."""
        return [*([Cut(FOLD, self.folds)] if self.folds > 1 else []), *super().cuts()]

    @property
    def sorts(self) -> int:
        """Sort within the buckets."""
        return -1 if self.descending else 1

    def turns(self, buckets: int) -> NDArray[np.int64]:
        """Return the buckets fold by fold, rising within each, or falling if the order is descending."""
        by_fold = np.arange(buckets).reshape(self.folds, -1)
        return (by_fold[:, ::-1] if self.descending else by_fold).ravel()

    def log_wish(self, progress: Progress, counts_K: Counts, names: Sequence[str]) -> NDArray[np.float64]:
        """Want each bucket for exactly the stretch that its samples fill, [S, K]: this wish is already a plan."""
        sequence = self.turns(len(counts_K))
        ends_K = np.cumsum(counts_K[sequence]) / max(1, int(counts_K.sum()))
        starts_K = np.concatenate([[0.0], ends_K[:-1]])
        upper = np.minimum(progress[1:, None], ends_K)
        shares_SK = np.zeros((len(progress) - 1, len(counts_K)))
        shares_SK[:, sequence] = np.maximum(upper - np.maximum(progress[:-1, None], starts_K), 0.0)
        with np.errstate(divide="ignore"):
            return np.log(shares_SK)


@dataclass(frozen=True)
class Tilt(ScoreCut):
    """The exponential tilt A = exp(steepness * (2 p - 1) * (2 q - 1)): one knob from a shuffle (0) to a sort.

    With two buckets the scaled plan is a logistic in p whose midpoint follows from the bucket sizes.
    """

    name: str = "tilt"
    buckets: int = 8
    steepness: float = 4.0
    """0: a shuffle; 10000, the maximum: almost a sort; negative: from high to low."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steepness(self.steepness)

    def log_wish(self, progress: Progress, counts_K: Counts, names: Sequence[str]) -> NDArray[np.float64]:
        """Return steepness * (2 p - 1) * (2 q - 1), [S, K]."""
        tilt: NDArray[np.float64] = np.outer(2 * self.folded(progress) - 1, 2 * middles(counts_K) - 1)
        return self.steepness * tilt


@dataclass(frozen=True)
class TwoBuckets(ScoreCut):
    """A preference defined by the share of the high bucket of two."""

    floor: float = 0.0
    """Share of the high bucket at the low end of its rise."""
    ceiling: float = 1.0
    """Share of the high bucket at the high end of its rise; below `floor` for the reverse order."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.parts != 2:
            raise ValueError(f"preference.buckets={self.parts}: {self.name} needs two buckets; tilt takes any number")
        for key, share in (("floor", self.floor), ("ceiling", self.ceiling)):
            if not 0.0 <= share <= 1.0:
                raise ValueError(f"preference.{key}={share} must be between 0 and 1")


@dataclass(frozen=True)
class Pdpc(TwoBuckets):
    """Two buckets cut at the token-weighted median; the high one's share follows a logistic in progress.

    share(p) = floor + (ceiling - floor) / (1 + exp(-steepness * (p - 1/2))). The S shape is from the paper (arXiv
    2501.13126); two buckets, the median, steepness 10, the strata, floor 0.2 and ceiling 0.8 are our choices.
    `preference=pdpc_plain` is the variant without strata, from 0 to 1. A negative steepness reverses the order.
    """

    name: str = "pdpc"
    stratify_by: str | None = "source"
    floor: float = 0.2
    ceiling: float = 0.8
    steepness: float = 10.0
    """Steepness of the rise per unit of progress; 0: a shuffle; negative: reversed."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_steepness(self.steepness)
        if self.floor >= self.ceiling:
            raise ValueError(
                f"preference.floor={self.floor} and preference.ceiling={self.ceiling} "
                "must satisfy 0 <= floor < ceiling <= 1; use a negative steepness to reverse the order"
            )

    def log_wish(self, progress: Progress, counts_K: Counts, names: Sequence[str]) -> NDArray[np.float64]:
        """Return log [1 - share, share], [S, 2]; logarithms of logistics, finite even where those round to 0."""
        exponent_S = self.steepness * (self.folded(progress) - 0.5)
        rising_S, falling_S = -np.logaddexp(0.0, -exponent_S), -np.logaddexp(0.0, exponent_S)
        with np.errstate(divide="ignore"):
            span, floor, rest = np.log([self.ceiling - self.floor, self.floor, 1.0 - self.ceiling])
        return np.stack([np.logaddexp(rest, span + falling_S), np.logaddexp(floor, span + rising_S)], axis=1)


@dataclass(frozen=True)
class Linear(TwoBuckets):
    """Two buckets; the high one's share moves linearly from floor to ceiling."""

    name: str = "linear"

    def log_wish(self, progress: Progress, counts_K: Counts, names: Sequence[str]) -> NDArray[np.float64]:
        """Return log [1 - share, share], [S, 2]."""
        return log_shares(self.floor + (self.ceiling - self.floor) * self.folded(progress))


@dataclass(frozen=True)
class TwoStage(TwoBuckets):
    """Two buckets; the high one's share is floor until the switch and ceiling after it."""

    name: str = "two_stage"
    switch: float | None = None
    """Progress at the switch; null: derived from the bucket sizes, so that floor and ceiling hold exactly."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.floor == self.ceiling:
            raise ValueError(f"preference.floor={self.floor} equals preference.ceiling: use preference=shuffled")
        if self.switch is not None and not 0.0 < self.switch < 1.0:
            raise ValueError(f"preference.switch={self.switch} must lie between 0 and 1, or be null")

    def log_wish(self, progress: Progress, counts_K: Counts, names: Sequence[str]) -> NDArray[np.float64]:
        """Return log [1 - share, share], [S, 2]; the step that contains the switch gets a weighted mean of both."""
        switch = self._switch(counts_K) if self.switch is None else self.switch
        ends_S = progress * self.folds
        past_S1 = np.floor(ends_S) * (1 - switch) + np.maximum(ends_S % 1.0 - switch, 0.0)  # time after a switch
        after_S = np.diff(past_S1) / np.maximum(np.diff(ends_S), 1e-300)
        return log_shares(self.floor + (self.ceiling - self.floor) * np.clip(after_S, 0.0, 1.0))

    def _switch(self, counts_K: Counts) -> float:
        """Solve floor * s + ceiling * (1 - s) = the high bucket's share of all positions, for s."""
        high = int(counts_K[1]) / max(1, int(counts_K.sum()))
        return float(np.clip((self.ceiling - high) / (self.ceiling - self.floor), 0.0, 1.0))


@dataclass(frozen=True)
class Frame(Preference):
    """Four quadrants of perplexity and perplexity difference, one after the other (FRAME, arXiv 2502.05551).

    Q1: low PD, low PPL; Q2: high PD, low PPL; Q3: low PD, high PPL; Q4: high PD, high PPL. The order Q3, Q4, Q1, Q2 is
    the paper's; the bell-shaped windows and nested medians are our choices.
    """

    name: str = "frame"
    outer: str = "ppl_strong"
    """Score of the first median: PPL."""
    inner: str = "pd"
    """Score of the second: PD."""
    sequence: list[int] = field(default_factory=lambda: [3, 4, 1, 2])
    """Quadrants in the order of their turns."""
    width: float = 0.1
    """Standard deviation of a quadrant's window, in progress: the smoothness of the transitions."""
    nested: bool = True
    """Take the inner median within each half of the outer one: four equal quadrants. False: over the stratum."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if sorted(self.sequence) != [1, 2, 3, 4]:
            raise ValueError(f"preference.sequence={list(self.sequence)} must contain 1, 2, 3 and 4 once each")
        if not 0.0 < self.width < np.inf:
            raise ValueError(f"preference.width={self.width} must be positive and finite: smaller is sharper")

    def cuts(self) -> list[Cut]:
        """Cut at the median of `outer`, and each half at that of `inner`."""
        return [Cut(self.outer, 2), Cut(self.inner, 2, nested=self.nested)]

    def bucket_names(self, sources: Sequence[str]) -> list[str]:
        """Return Q1 to Q4: low PPL first, and low PD first inside it."""
        return ["Q1", "Q2", "Q3", "Q4"]

    def log_wish(self, progress: Progress, counts_K: Counts, names: Sequence[str]) -> NDArray[np.float64]:
        """Return -((p - centre) / width)^2 / 2, [S, 4]: a bell around the middle of each quadrant's turn."""
        turns = np.array(self.sequence) - 1
        centre_K = np.empty(4)
        centre_K[turns] = middles(counts_K[turns])
        return -(((self.folded(progress)[:, None] - centre_K) / self.width) ** 2) / 2


def check_steepness(steepness: float) -> None:
    """Raise ValueError for a steepness that is NaN or beyond STEEPEST."""
    if not abs(steepness) <= STEEPEST:
        raise ValueError(
            f"preference.steepness={steepness} must be a number from {-STEEPEST:g} to {STEEPEST:g}: "
            "use preference=sorted for a full sort"
        )
