"""Learning-rate schedules: a factor of the peak as a pure function of progress."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Decay = Callable[[float], float]
"""From progress after warm-up in [0, 1] to the remaining share, 1 falling to 0, of the way to the final value."""

DECAYS: dict[str, Decay] = {
    "constant": lambda _: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}
"""Names that a config may choose."""


@dataclass(frozen=True)
class ScheduleSettings:
    """How the learning rate moves.

    The default keeps a third of the peak: late data meet a rate that still learns from them, without which a
    curriculum's gain can be lost to the decay (method of the fair comparison; ICLR 2026, arXiv 2511.18903).
    """

    name: str = "cosine"
    """constant, linear or cosine."""
    warmup_share: float = 0.02
    """Part of the run in which the rate rises linearly from near zero to the peak."""
    final_share: float = 1 / 3
    """Learning rate at the end as a share of the peak."""

    def __post_init__(self) -> None:
        if self.name not in DECAYS:
            raise ValueError(f"schedule.name={self.name!r} is unknown: use one of {sorted(DECAYS)}")
        for key in ("warmup_share", "final_share"):
            if not 0.0 <= getattr(self, key) <= 1.0:
                raise ValueError(f"schedule.{key}={getattr(self, key)} must lie in [0, 1]")
        if self.name == "constant" and self.final_share != 1.0:
            raise ValueError(
                f"schedule.final_share={self.final_share} does not fit a constant rate: use schedule=constant"
            )


def learning_rate(settings: ScheduleSettings, peak: float, step: int, steps: int) -> float:
    """Return the learning rate of step (from 0) of a run of `steps`."""
    warmup = min(steps - 1, math.ceil(settings.warmup_share * steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - 1 - warmup)
    return peak * (settings.final_share + (1.0 - settings.final_share) * DECAYS[settings.name](progress))
