"""The base of every preference: how it cuts the corpus, and what it wants.

Shapes: S steps, K buckets. A preference states a wish; `curriculum/arrange/plan.py` makes it feasible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Progress = NDArray[np.float64]
"""[S + 1]: the fraction of the run, in samples, completed at the start of each step, and 1 at the end."""

Counts = NDArray[np.int64]
"""[K]: uses of every bucket's samples, low to high."""

SOURCE = "source"
FOLD = "fold"


@dataclass(frozen=True)
class Cut:
    """One way to divide the corpus; several of them, one inside the other, define its buckets."""

    by: str
    """A score expression; "source"; or "fold", a keyed random part."""
    parts: int = 0
    """Number of parts with equal tokens. 0: given by `edges`, or one per source."""
    edges: tuple[float, ...] = ()
    """Fixed edges instead, rising; a score equal to an edge goes below it."""
    nested: bool = True
    """Are the edges found inside each part so far (True), or in the whole stratum (False)?"""

    def names(self, sources: Sequence[str]) -> list[str]:
        """Return the names of the parts."""
        if self.by == SOURCE:
            return list(sources)
        parts = self.parts or len(self.edges) + 1
        if self.by == FOLD:
            return [f"fold{part + 1}" for part in range(parts)]
        return ["low", "high"] if parts == 2 else [f"q{part + 1}" for part in range(parts)]


@dataclass(frozen=True)
class Preference:
    """The settings of every preference. Choose one with `preference=NAME`."""

    name: str = "shuffled"
    """Name in the registry."""
    stratify_by: str | None = None
    """source: cut buckets and plan within every source, and spread the sources evenly, so that the score moves
    while the mix of sources stays the same. null: one plan for the whole corpus."""
    folds: int = 1
    """Run through the preference this many times, each time over a different random part of every bucket."""
    uses: dict[str, int] = field(default_factory=dict)
    """How often the samples of a bucket are used, by bucket name: 0 leaves them out, 2 repeats them. Buckets that are
    not listed are used once; `unscored` is the bucket of samples without a score (see `nonfinite` of `arrange`)."""

    def __post_init__(self) -> None:
        if self.stratify_by not in (None, SOURCE):
            raise ValueError(f"preference.stratify_by={self.stratify_by!r} is not supported: use source or null")
        if self.folds < 1:
            raise ValueError(f"preference.folds={self.folds} must be at least 1")
        for bucket, times in self.uses.items():
            if not 0 <= times <= 255:
                raise ValueError(f"preference.uses.{bucket}={times} must be between 0 (leave out) and 255")

    def cuts(self) -> list[Cut]:
        """Return the cuts that define the buckets, outermost first; empty: one bucket."""
        return []

    def bucket_names(self, sources: Sequence[str]) -> list[str]:
        """Return the bucket names: those of the parts, joined by "/" if there are several cuts."""
        names = [""]
        for cut in self.cuts():
            names = [f"{outer}/{inner}".lstrip("/") for outer in names for inner in cut.names(sources)]
        return names if self.cuts() else ["all"]

    @property
    def sorts(self) -> int:
        """1: the score rises within a bucket, -1: it falls, 0: a keyed permutation."""
        return 0

    def turns(self, buckets: int) -> NDArray[np.int64]:
        """Return the order in which a sort goes through the buckets, [K]."""
        return np.arange(buckets)

    @property
    def inputs(self) -> dict[str, str]:
        """Digests of the files that define the preference."""
        return {}

    def log_wish(self, progress: Progress, counts_K: Counts, names: Sequence[str]) -> NDArray[np.float64]:
        """Return the logarithm of the affinity [S, K] (-inf: not wanted) for the buckets `names` with `counts_K` uses.

        Only differences within a row matter. Here: every bucket evenly.
        """
        return np.zeros((len(progress) - 1, len(counts_K)))

    def folded(self, progress: Progress) -> Progress:
        """Return the middle of every step, [S], as progress through its fold."""
        middle = (progress[1:] + progress[:-1]) / 2
        return middle * self.folds % 1.0


@dataclass(frozen=True)
class Shuffled(Preference):
    """One bucket: a uniform shuffle, the baseline of every comparison."""


@dataclass(frozen=True)
class ScoreCut(Preference):
    """A preference whose buckets are cut by a score."""

    score: str = "pd"
    """Score that cuts the corpus: an expression over the available columns, such as pd, ppl_strong, length,
    (loss_weak - loss_strong) / loss_weak, with + - * / **, parentheses, exp, log, sqrt, abs, minimum and maximum."""
    buckets: int = 2
    """Number of buckets with equal tokens."""
    edges: list[float] = field(default_factory=list)
    """Fixed bucket edges instead of equal parts, rising."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.score:
            raise ValueError(f"preference.score is empty: {self.name} needs a score to cut by")
        if self.edges:
            rising = all(a < b for a, b in zip(self.edges, self.edges[1:], strict=False))
            if not rising or not np.isfinite(self.edges).all():
                raise ValueError(f"preference.edges={self.edges} must be finite and rising")
        if self.parts < 2:
            raise ValueError(f"preference.buckets={self.buckets} must be at least 2")

    @property
    def parts(self) -> int:
        """Number of buckets."""
        return len(self.edges) + 1 if self.edges else self.buckets

    def cuts(self) -> list[Cut]:
        """Cut by the score."""
        return [Cut(self.score, self.parts, tuple(self.edges))]


def middles(counts_K: Counts) -> NDArray[np.float64]:
    """Return the mid-quantile of every bucket, [K] in (0, 1), low to high."""
    ends_K = np.cumsum(counts_K)
    middle_K: NDArray[np.float64] = (ends_K - counts_K / 2) / max(1, int(ends_K[-1]))
    return middle_K


def log_shares(high_S: NDArray[np.float64], low_S: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """Return log [low share, high share], [S, 2]; `low_S` is given where 1 - high would round to zero."""
    with np.errstate(divide="ignore"):
        return np.log(np.stack([1 - high_S if low_S is None else low_S, high_S], axis=1))
