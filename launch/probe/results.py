"""The results of a probe: what was measured, the preferred share by progress, the preference through it, the cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launch.probe.fit import Fitted, fit
from launch.probe.preferred import LEVEL, Measured, Preferred, preferred
from train.evaluation.answers import answers_path, read_answers
from train.report.measures import Measure
from train.report.records import Run

LEAST_POINTS = 2
"""Checkpoints through which a preference can be fitted: with one, there is no progress."""


@dataclass(frozen=True)
class Trend:
    """How much the preferred mean rank of the buckets (0 the lowest, 1 the highest) rises from start to end."""

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Cost:
    """Tokens that the branches were trained on, and the trunk."""

    branches: int
    tokens: int
    trunk_tokens: int


@dataclass(frozen=True)
class Results:
    """What a probe found."""

    run: str
    measure: Measure
    buckets: list[str]
    sizes: list[float]
    """Share of each bucket in the run."""
    checkpoints: list[Preferred]
    fitted: Fitted
    trend: Trend
    cost: Cost
    measured: list[Measured]
    words: str
    """The preference as words of `pdpc arrange`."""
    notes: list[str] = field(default_factory=list)

    @property
    def surprising(self) -> list[Preferred]:
        """Checkpoints at which the interval of some bucket leaves out its share of the run."""
        return [
            one
            for one in self.checkpoints
            if any(not low <= size <= high for low, size, high in zip(one.low, self.sizes, one.high, strict=True))
        ]

    def as_dict(self) -> dict[str, Any]:
        """Return the results for a JSON file."""
        points = [{**vars(one)} for one in self.checkpoints]
        for point in points:
            del point["draws_RK"]
        return {
            "run": self.run,
            "measure": self.measure.key,
            "buckets": self.buckets,
            "sizes": self.sizes,
            "checkpoints": points,
            "preference": {"words": self.words, **asdict(self.fitted)},
            "trend": asdict(self.trend),
            "cost": asdict(self.cost),
            "branches": [{**asdict(one.branch), "value": one.value} for one in self.measured],
            "notes": self.notes,
        }


def analysed(
    measured: Sequence[Measured],
    progress: dict[int, float],
    measure: Measure,
    names: list[str],
    sizes_K: NDArray[np.float64],
    kind: str,
    *,
    run: str,
    words: str,
    cost: Cost,
    notes: Sequence[str] = (),
) -> Results:
    """Return the results of measured branches; `progress` is that of every step, `kind` the fit.

    Raises ValueError unless LEAST_POINTS checkpoints have branches enough for a quadratic.
    """
    points, notes = [], list(notes)
    for step in sorted({one.branch.from_step for one in measured}):
        there = [one for one in measured if one.branch.from_step == step]
        try:
            points.append(preferred(there, progress[step], measure.lower_is_better))
        except ValueError as error:
            notes.append(str(error))
    if len(points) < LEAST_POINTS:
        raise ValueError(
            f"{len(points)} checkpoints have enough finished branches, and a preference needs {LEAST_POINTS}: "
            f"{'; '.join(notes) or 'run the same command again'}"
        )
    if any(point.documents == 0 for point in points):
        notes.append(f"{measure.key} has no results by document: the intervals have the noise of branches only")
    at_P = np.array([point.progress for point in points])
    width_P = np.array([np.mean(np.array(point.high) - np.array(point.low)) for point in points])
    fitted = fit(kind, at_P, np.array([point.shares for point in points]), width_P, sizes_K)
    return Results(
        run, measure, names, sizes_K.tolist(), points, fitted, _trend(points), cost, list(measured), words, notes
    )


def _trend(points: Sequence[Preferred]) -> Trend:
    """Return the slope of a line through the preferred mean ranks, with the interval of its resampled fits."""
    at_P = np.array([point.progress for point in points])
    from_mean_P = (at_P - at_P.mean()) / ((at_P - at_P.mean()) ** 2).sum()
    rank_K = np.linspace(0, 1, len(points[0].shares))
    slope_R = np.stack([point.draws_RK @ rank_K for point in points], axis=1) @ from_mean_P
    value = float(from_mean_P @ np.array([np.array(point.shares) @ rank_K for point in points]))
    low, high = np.quantile(slope_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Trend(value, min(value, float(low)), max(value, float(high)))


def documents_of(run: Run, key: str) -> dict[int, tuple[float, float]] | None:
    """Return (mean, weight) by document, or by passage of a benchmark, at the end of a run; None if unknown."""
    items = read_answers(answers_path(run.folder, int(run.stages[-1]["step"]))).get(key)
    if items is None or items.groups is None:
        return None
    groups, place = np.unique(items.groups, return_inverse=True)
    weight = np.bincount(place, items.weights)
    mean = np.bincount(place, items.weights * items.values) / weight
    return {int(group): (float(value), float(size)) for group, value, size in zip(groups, mean, weight, strict=True)}
