"""95 % confidence intervals of a difference, from the items that both arms were evaluated on and from seeds.

A measure of one seed is a weighted mean of items. The influence of a group of items (a document, the questions about a
passage) is how far it moves that mean (train/evaluation/clusters.py). Subtracting the influences on both sides group by
group gives the item variance: the limit of a paired bootstrap over groups as the number of resamples grows, without its
Monte Carlo noise. Seeds are the second level: their variance is that of the per-seed differences (arms with the same
seeds), or is pooled over both arms. The interaction of items and seeds is contained in both and is subtracted once:

    variance = seeds + max(0, items - together)
    half width = sqrt(variance * (u^2 + (t^2 - u^2) * share^1.5)),   share = seeds / variance

with Student's t for the seeds' degrees of freedom and u for the items'. Coverage is exact if only one of the two
variances is present; for any mixture with many items it is between 94 and 97.5 % with 2 seeds, 94.8 and 96.4 with 3,
95.0 and 95.7 with 5 (computed for normal seeds; Satterthwaite's rule drops to 92 with 3). The half width is never below
one standard error of the items: a few seeds that happen to agree prove nothing. A two-level bootstrap of 3 seeds
captures only 2/3 of their variance and uses normal quantiles. `python -m benchmarks.interval_coverage` simulates both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from train.evaluation.answers import Items
from train.evaluation.clusters import clustered
from train.report.student import NORMAL, p_value, t_quantile

Values = NDArray[np.float64]
POWER = 1.5
"""Exponent of the seeds' share of the variance; with 3 seeds, 1 covers up to 97.7 % and 2 as little as 94 %."""
NO_SPREAD = 1e-9
"""Relative to the values: seeds that differ by less do not differ at all, and say nothing about other seeds."""


@dataclass(frozen=True)
class Side:
    """One measure of an arm at one point, over its seeds."""

    means: Values
    """[seeds] the measure of each seed."""
    influence: Values | None = None
    """[seeds, groups] how far each group of items moves its seed's measure; None: items unknown."""
    items: tuple[NDArray[np.int64], Values] | None = None
    """Ids and weights of the items, each [items]: two sides are compared group by group if both agree."""
    tasks: tuple[tuple[int, float], ...] = ()
    """For each task, or for the only one: number of groups, and degrees of freedom of their variance."""
    grain: float = 0.0
    """Added to the item variance for right-or-wrong answers: two half answers, one for either side."""
    error: float | None = None
    """Standard error of one seed's measure over items; None: unknown."""


@dataclass(frozen=True)
class Interval:
    """The 95 % confidence interval of a difference."""

    low: float
    high: float
    method: str
    """`items`, `items and seeds`, `seeds`, `standard errors` or `standard errors and seeds`."""
    p: float
    """Two-sided p-value of no difference; below 0.05 if the interval excludes zero."""
    floor: float = 0.0
    """Half width that the choice of items leaves at any number of seeds; 0 if one seed, or no items, cannot tell."""


def side_of(seeds: Sequence[Items]) -> Side | None:
    """Return the side computed from the items of every seed.

    None if items differ by seed, or are fewer than two groups.
    """
    first = seeds[0]
    if any(not _same(items, first) for items in seeds[1:]):
        return None
    found = clustered(seeds)
    if found is None:
        return None
    answers = all(bool(np.isin(items.values, (0, 1)).all()) and bool((items.weights == 1).all()) for items in seeds)
    groups = found.influence.shape[1]
    return Side(
        found.means,
        found.influence,
        (first.ids, first.weights),
        ((groups, found.freedom),),
        found.concentration / len(first.ids) if answers else 0.0,
        math.sqrt(float((found.influence**2).sum(axis=1).mean())),
    )


def average(tasks: Sequence[Side]) -> Side | None:
    """Return the unweighted mean over tasks, whose items are independent; None if any task has no items."""
    share = 1 / len(tasks)
    influences = [task.influence for task in tasks if task.influence is not None]
    items = [task.items for task in tasks if task.items is not None]
    errors = [task.error for task in tasks if task.error is not None]
    if len(influences) < len(tasks) or len({len(task.means) for task in tasks}) > 1:
        return None
    return Side(
        np.mean([task.means for task in tasks], axis=0),
        share * np.concatenate(influences, axis=1),
        (np.concatenate([ids for ids, _ in items]), np.concatenate([weights for _, weights in items])),
        tuple(part for task in tasks for part in task.tasks),
        share**2 * sum(task.grain for task in tasks),
        share * math.hypot(*errors) if len(errors) == len(tasks) else None,
    )


def scaled(side: Side, factors: Values) -> Side:
    """Return a measure multiplied by a known factor, [seeds]: bits per byte from nats per token."""
    assert side.influence is not None
    error = None if side.error is None else side.error * float(np.sqrt((factors**2).mean()))
    return replace(side, means=side.means * factors, influence=side.influence * factors[:, None], error=error)


def interval(first: Side, second: Side, difference: float, paired: bool) -> Interval | None:
    """Return the 95 % interval of `difference`, the mean of `second` minus that of `first`.

    `paired`: seed i of one side and seed i of the other form a pair (the same seed, or the same run at two points).
    None if neither items, nor standard errors, nor several seeds are available to estimate the variance.
    """
    seeds, seeds_freedom = _seeds(first, second, paired)
    matched = _items(first, second, paired)
    method = []
    items, together, quantile = 0.0, 0.0, NORMAL
    if matched is not None:
        items, together, freedom = matched
        quantile = t_quantile(freedom)
        method.append("items")
    elif first.error is not None and second.error is not None:
        items = first.error**2 + second.error**2
        method.append("standard errors")
    if seeds_freedom:
        method.append("seeds")
    scale = max(float(np.abs(side.means).max()) for side in (first, second))
    if not method or (method == ["seeds"] and seeds <= (NO_SPREAD * scale) ** 2):
        return None
    variance = seeds + max(0.0, items - together)
    critical = quantile**2
    if seeds > 0:
        critical += (t_quantile(seeds_freedom) ** 2 - quantile**2) * (seeds / variance) ** POWER
    half = math.sqrt(max(variance * critical, items))
    p = p_value(abs(difference), half, math.sqrt(max(critical, NORMAL**2)))
    floor = quantile * math.sqrt(max(0.0, items - together)) if matched is not None and seeds_freedom else 0.0
    return Interval(difference - half, difference + half, " and ".join(method), p, floor)


def _seeds(first: Side, second: Side, paired: bool) -> tuple[float, int]:
    """Return the seed variance of the difference and its degrees of freedom; (0, 0) with one seed per side."""
    if paired:
        differences = second.means - first.means
        count = len(differences)
        return (float(differences.var(ddof=1)) / count, count - 1) if count > 1 else (0.0, 0)
    counts = [len(side.means) for side in (first, second)]
    freedom = sum(counts) - 2
    if freedom == 0:
        return 0.0, 0
    pooled = sum(float(((side.means - side.means.mean()) ** 2).sum()) for side in (first, second)) / freedom
    return pooled * (1 / counts[0] + 1 / counts[1]), freedom


def _items(first: Side, second: Side, paired: bool) -> tuple[float, float, float] | None:
    """Return the item variance of the difference, its item-seed interaction and the degrees of freedom.

    None unless the items are the same.
    """
    if first.influence is None or second.influence is None or not same_items(first, second):
        return None
    counts = [len(first.means), len(second.means)]
    grain = max(first.grain, second.grain) / min(counts)
    if paired:
        each = second.influence - first.influence
        mean = each.mean(axis=0)
        within = _squares(each) / max(1, counts[0] - 1) / counts[0]
    else:
        mean = second.influence.mean(axis=0) - first.influence.mean(axis=0)
        within = (_squares(first.influence) + _squares(second.influence)) / max(1, sum(counts) - 2)
        within *= 1 / counts[0] + 1 / counts[1]
    return float(mean @ mean) + grain, within, _freedom(mean, first.tasks)


def same_items(first: Side, second: Side) -> bool:
    """Tell whether two sides are known to have the same items, with the same weights and in the same groups."""
    if first.items is None or second.items is None or first.tasks != second.tasks:
        return False
    return all(np.array_equal(one, other) for one, other in zip(first.items, second.items, strict=True))


def _freedom(mean: Values, tasks: Sequence[tuple[int, float]]) -> float:
    """Return the degrees of freedom of a sum of variances, by task (Satterthwaite): those of the one that dominates."""
    ends = np.cumsum([groups for groups, _ in tasks])[:-1]
    variances = np.asarray([part @ part for part in np.split(mean, ends)])
    if not variances.any():
        return min(freedom for _, freedom in tasks)
    return float(variances.sum() ** 2 / (variances**2 / [freedom for _, freedom in tasks]).sum())


def _same(one: Items, other: Items) -> bool:
    """Tell whether two runs answered the same items, in the same groups."""
    groups = (one.ids if one.groups is None else one.groups, other.ids if other.groups is None else other.groups)
    return np.array_equal(one.ids, other.ids) and np.array_equal(one.weights, other.weights) and np.array_equal(*groups)


def _squares(influence: Values) -> float:
    """Return the sum of squares about each group's mean over seeds."""
    return float(((influence - influence.mean(axis=0)) ** 2).sum())
