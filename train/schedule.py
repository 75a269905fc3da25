"""Learning-rate schedules: the rate as a pure function of the step.

Warm-up rises linearly to the peak; then the schedule falls to its final share of the peak (docs/schedules.md).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from curriculum.order.order import UNSCORED, Order, starts_of
from models.setting import BINDS

Decay = Callable[[float], float]
"""Maps progress in [0, 1] to the remaining share, from 1 to 0, of the distance to the final value."""

DECAYS: dict[str, Decay] = {
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "sqrt": lambda progress: 1.0 - math.sqrt(progress),
}
"""Decay shapes; sqrt is the 1 - sqrt of Haegele et al., arXiv 2405.18392."""

NAMES = ("wsd", "cosine", "linear", "constant")
"""Values of schedule.name."""

WARMUPS = ("warmup_share", "warmup_steps", "warmup_tokens")
WARMUP_SHARE = 0.02
DECAY_SHARE, DECAY = 0.2, "sqrt"

NEARLY_ZERO = 0.1
"""A schedule with a final share up to this counts as decaying to nearly zero."""
RISE = 0.25
"""A score counts as rising when the line fitted to the mean ranks of an order's steps, 0 to 1, gains this much."""
STEPS_AT_ONCE = 1 << 16


@dataclass(frozen=True)
class ScheduleSettings:
    """Learning-rate schedule.

    The default ends at a third of the peak, so that the model still learns from late data; otherwise a curriculum's
    gain can be lost to the decay (arXiv 2511.18903).
    """

    name: str = field(default="cosine", metadata=BINDS)
    """wsd (warm-up, stable, decay), cosine, linear or constant."""
    warmup_share: float | None = field(default=None, metadata=BINDS)
    """Warm-up as a share of the run, from near zero to the peak; null: 0.02, unless one of the next two is set."""
    warmup_steps: int | None = field(default=None, metadata=BINDS)
    """Warm-up in steps."""
    warmup_tokens: int | None = field(default=None, metadata=BINDS)
    """Warm-up in tokens, rounded up to whole global batches of full samples."""
    final_share: float = field(default=1 / 3, metadata=BINDS)
    """Final learning rate as a share of the peak."""
    decay_share: float | None = field(default=None, metadata=BINDS)
    """Only for wsd: decay as a share of the run, at its end; null: 0.2."""
    decay: str | None = field(default=None, metadata=BINDS)
    """Only for wsd: shape of the decay, sqrt (1 - sqrt), linear or cosine; null: sqrt."""

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"schedule.name={self.name!r} is unknown: use one of {list(NAMES)}")
        for key in ("warmup_share", "final_share", "decay_share"):
            value = getattr(self, key)
            if value is not None and not 0.0 <= value <= 1.0:
                raise ValueError(f"schedule.{key}={value} must lie in [0, 1]")
        for key in ("warmup_steps", "warmup_tokens"):
            value = getattr(self, key)
            if value is not None and value < 0:
                raise ValueError(f"schedule.{key}={value} must not be negative")
        given = [key for key in WARMUPS if getattr(self, key) is not None]
        if len(given) > 1:
            values = " and ".join(f"schedule.{key}={getattr(self, key)}" for key in given)
            raise ValueError(f"{values} both set the length of the warm-up: give one of them, and null for the others")
        if self.name == "constant" and self.final_share != 1.0:
            raise ValueError(
                f"schedule.final_share={self.final_share} does not match a constant rate: use schedule=constant"
            )
        if self.name == "wsd":
            self._check_decay()
        for key in ("decay_share", "decay"):
            if self.name != "wsd" and getattr(self, key) is not None:
                raise ValueError(
                    f"schedule.{key}={getattr(self, key)!r} has no effect with {self.name}: use it with schedule=wsd"
                )

    def _check_decay(self) -> None:
        if self.decay is not None and self.decay not in DECAYS:
            raise ValueError(f"schedule.decay={self.decay!r} is unknown: use one of {sorted(DECAYS)}")
        warmup = WARMUP_SHARE if self.warmup_share is None else self.warmup_share
        if self.decay_share is not None and self.decay_share + (warmup if self._by_share else 0.0) > 1.0:
            raise ValueError(
                f"schedule.decay_share={self.decay_share} and a warm-up of {warmup} add up to more than the whole run: "
                "lower one of them"
            )

    @property
    def _by_share(self) -> bool:
        return self.warmup_steps is None and self.warmup_tokens is None


@dataclass(frozen=True)
class Schedule:
    """The schedule of one run: `schedule(step)` is the learning rate of a step, counted from 0."""

    settings: ScheduleSettings
    peak: float
    """Highest rate."""
    steps: int
    """Steps of the whole run."""
    warmup: int
    """Warm-up steps."""
    stable: int
    """Steps at the peak between warm-up and decay: only wsd has any."""
    shift: int = 0
    """Added to a run's step: see `shifted`."""

    def shifted(self, first: int, shift: int) -> Schedule:
        """Return the schedule for steps from `first` on that stand for this one's steps `shift` later.

        For a run whose batch size changed at step `first`: the rate follows the samples consumed. A warm-up in steps
        that the run has completed is over.
        """
        over = self.settings.warmup_steps is not None and self.settings.warmup_steps <= first
        warmup = min(self.warmup, first + shift) if shift and over else self.warmup
        return replace(self, warmup=warmup, stable=self.stable + self.warmup - warmup, shift=shift) if shift else self

    @classmethod
    def of(cls, settings: ScheduleSettings, peak: float, steps: int, tokens_per_step: int) -> Schedule:
        """Return the schedule of a run of `steps`, each of `tokens_per_step` when all of its samples are full.

        Raises ValueError when warm-up and decay, in steps or tokens, do not fit into the run.
        """
        requested, key = _warmup(settings, steps, tokens_per_step)
        if key != "warmup_share" and requested >= steps:
            raise ValueError(
                f"schedule.{key}={getattr(settings, key)} is {requested} steps of warm-up, but the order has {steps}: "
                "use fewer, or another order"
            )
        warmup = min(steps - 1, requested)
        if settings.name != "wsd":
            return cls(settings, peak, steps, warmup, 0)
        decay_steps = math.ceil((DECAY_SHARE if settings.decay_share is None else settings.decay_share) * steps)
        if key != "warmup_share" and warmup + decay_steps > steps:
            raise ValueError(
                f"schedule.{key}={getattr(settings, key)} is {warmup} steps of warm-up, but schedule.decay_share "
                f"leaves {steps - decay_steps} of {steps} before the decay: lower one of them"
            )
        return cls(settings, peak, steps, warmup, max(0, steps - decay_steps - warmup))

    @classmethod
    def over(
        cls, settings: ScheduleSettings, peak: float, steps: int, batch_sizes: list[list[int]], seq_len: int
    ) -> Schedule:
        """Return the schedule of a run over an order of `steps` with these batch sizes ([first step, samples] each).

        A resized order has other steps than its schedule: those of a run that had its last batch size from the start.
        Raises ValueError as `of` does.
        """
        first, cursor, size = starts_of(batch_sizes)[-1]
        shift = round(cursor / size) - first
        return cls.of(settings, peak, steps + shift, size * seq_len).shifted(first, shift)

    def __call__(self, step: int) -> float:
        """Return the learning rate of a step: (step + 1) / warmup of the peak, then the decay to the final share."""
        step += self.shift
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        if self.settings.name == "constant" or step < self.warmup + self.stable:
            return self.peak
        first = self.warmup + self.stable
        if self.settings.name == "wsd":  # its first decay step is already below the peak
            progress = (step - first + 1) / (self.steps - first)
            shape = DECAYS[self.settings.decay or DECAY]
        else:
            progress = (step - first) / max(1, self.steps - 1 - first)
            shape = DECAYS[self.settings.name]
        final = self.settings.final_share
        return self.peak * (final + (1.0 - final) * shape(progress))


def _warmup(settings: ScheduleSettings, steps: int, tokens_per_step: int) -> tuple[int, str]:
    """Return the warm-up steps and the key that sets them."""
    if settings.warmup_steps is not None:
        return settings.warmup_steps, "warmup_steps"
    if settings.warmup_tokens is not None:
        return -(-settings.warmup_tokens // tokens_per_step), "warmup_tokens"
    share = WARMUP_SHARE if settings.warmup_share is None else settings.warmup_share
    return math.ceil(share * steps), "warmup_share"


def wasted_rise(settings: ScheduleSettings, order: Order) -> str | None:
    """Return why this schedule wastes the order's late data, as a sentence; None if it does not.

    Late data get a decayed rate: when the score behind the order's buckets rises over the run (its mean rank by RISE)
    and the rate falls to NEARLY_ZERO, the model hardly learns from the samples kept for the end (arXiv 2511.18903).
    Computed from the order's counts, O(steps * buckets); orders not bucketed by a single score are not judged.
    """
    if settings.final_share > NEARLY_ZERO:
        return None
    rise = score_rise(order)
    if rise is None or rise < RISE:
        return None
    return (
        f"the bucket score of order {order.folder} rises over the run (mean rank +{rise:.2f} of 1), but schedule "
        f"{settings.name} decays to {settings.final_share:g} of the peak: the model hardly learns from the samples "
        "kept for the end, which can cost the order's gain (arXiv 2511.18903). Use schedule=gentle (a third of the "
        "peak), or schedule=constant with averaged weights (docs/schedules.md)"
    )


def score_rise(order: Order) -> float | None:
    """Return how far the mean rank of the score moves over an order: the rise of a line fitted to its steps.

    Rank 0 is the lowest bucket, 1 the highest. None if the order is not bucketed by one score.
    """
    preference: dict[str, Any] = order.manifest.config.get("preference") or {}
    if "score" not in preference or "buckets" not in preference:
        return None
    edges = preference.get("edges") or ()
    parts = len(edges) + 1 if edges else int(preference["buckets"])
    names = [bucket.name for bucket in order.buckets if bucket.name != UNSCORED]
    if parts < 2 or len(names) % parts:
        return None
    rank_K = np.arange(len(names)) % parts / (parts - 1)  # folds repeat the parts
    sums_5 = np.zeros(5)  # of samples, rank, time, rank * time, time * time
    for first in range(0, order.steps, STEPS_AT_ONCE):
        counts_SK = order.counts[first : min(first + STEPS_AT_ONCE, order.steps)][:, : len(names)]
        time_S = (np.arange(first, first + len(counts_SK)) + 0.5) / order.steps
        samples_S, rank_S = counts_SK.sum(axis=1), counts_SK @ rank_K
        sums_5 += [samples_S.sum(), rank_S.sum(), samples_S @ time_S, rank_S @ time_S, samples_S @ time_S**2]
    samples, by_rank, by_time, by_both, by_square = sums_5.tolist()
    spread = by_square - by_time**2 / max(1.0, samples)
    return float((by_both - by_time * by_rank / samples) / spread) if spread > 0 else None
