"""Settings of `pdpc probe`."""

from __future__ import annotations

from dataclasses import dataclass, field

FITS = ("logistic", "monotone")
LEAST_SHARES = 4
"""A quadratic has three coefficients: one more measurement shows how far it is off."""


@dataclass(frozen=True)
class ProbeSettings:
    """Settings of `pdpc probe RUN`."""

    run: str
    """RUN folder of a run on shuffled data that keeps checkpoints: the trunk. It is not modified."""
    output: str
    """Folder of the branches and the results."""
    order: str | None = None
    """ORDER of the run; null: where run.json says that it was."""
    tokens: str | None = None
    """TOKENS of the run; null: where run.json says that they were."""
    scores: str | None = None
    """SCORES folder; null: the run's data.scores, unless own_scores is given."""
    own_scores: str | None = None
    """Parquet of your own scores."""
    score: str = "pd"
    """Score that cuts the corpus into buckets: an expression over the available columns."""
    buckets: int = 2
    """Number of buckets with equal tokens."""
    stratify_by: str | None = "source"
    """source: cut the buckets within every source, and keep the mix of sources in every branch. null: one cut."""
    shares: list[float] = field(default_factory=lambda: [0.0, 0.25, 0.5, 0.75, 1.0])
    """Shares of the high bucket, a branch each. With more than 2 buckets, each bucket has these shares in turn, and the
    others split the rest by size."""
    progress: list[float] = field(default_factory=list)
    """Points of the run, from 0 to 1, to branch at: a kept checkpoint must be within 0.02 of each. Empty: every kept
    checkpoint with enough unread data."""
    steps: int | None = None
    """Steps of a branch; null: a twentieth of the run's."""
    seeds: int = 1
    """Branches of each share, with different samples."""
    measure: str = "val/loss"
    """What the preferred share improves: a measure of the run, val/loss, val/source/NAME/loss or bench/avg."""
    fit: str = "logistic"
    """Shape through the preferred shares: logistic (one slope per bucket), or monotone (2 buckets; the nearest shares
    that only rise or only fall)."""
    plan: bool = False
    """Show what would run and its cost in tokens, and start nothing (--plan)."""
    at_once: int | None = None
    """Most branches that run at the same time; null: as many as the CPUs (or GPUs) have room for."""

    def __post_init__(self) -> None:
        if self.buckets < 2:
            raise ValueError(f"buckets={self.buckets} must be at least 2")
        if self.stratify_by not in (None, "source"):
            raise ValueError(f"stratify_by={self.stratify_by!r} is not supported: use source or null")
        distinct = sorted(set(self.shares))
        if len(distinct) < LEAST_SHARES or distinct[0] < 0 or distinct[-1] > 1:
            raise ValueError(
                f"shares={self.shares} must be at least {LEAST_SHARES} different shares between 0 and 1: a quadratic "
                "is fitted to them"
            )
        if any(not 0 < point < 1 for point in self.progress) or len(set(self.progress)) < len(self.progress):
            raise ValueError(f"progress={self.progress} must be different points between 0 and 1, without both ends")
        for key in ("steps", "seeds", "at_once"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key}={value} must be at least 1")
        if not self.measure.startswith(("val/", "bench/")):
            raise ValueError(f"measure={self.measure!r} must be a measure of the run, such as val/loss or bench/avg")
        if self.fit not in FITS:
            raise ValueError(f"fit={self.fit!r} is unknown: use one of {', '.join(FITS)}")
        if self.fit == "monotone" and self.buckets != 2:
            raise ValueError(f"fit=monotone needs buckets=2, not {self.buckets}: use fit=logistic")
