"""95 % confidence intervals of a difference, from the items that both arms were evaluated on and from seeds.

A measure of one seed is a weighted mean of items. The influence of an item, w (y - mean) / sum(w), is how far it moves
that mean. Subtracting the influences on both sides item by item gives the item variance: the limit of a paired
bootstrap over items as the number of resamples grows, without its Monte Carlo noise. Seeds are the second level: their
variance is that of the per-seed differences (arms with the same seeds), or is pooled over both arms. The interaction of
items and seeds is contained in both and is subtracted once:

    variance = seeds + max(0, items - together)
    half width = sqrt(variance * (z^2 + (t^2 - z^2) * share^1.5)),   share = seeds / variance

with t for the seeds' degrees of freedom and z for the items'. Coverage is exact if only one of the two variances is
present; for any mixture it is between 94 and 97.5 % with 2 seeds, 94.8 and 96.4 with 3, 95.0 and 95.7 with 5 (computed
for normal seeds and many items; Satterthwaite's rule drops to 92 with 3). The half width is never below one standard
error of the items: a few seeds that happen to agree prove nothing. A two-level bootstrap of 3 seeds captures only 2/3
of their variance and uses normal quantiles. `python -m benchmarks.interval_coverage` simulates both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.evaluation.answers import Items

Values = NDArray[np.float64]
POWER = 1.5
"""Exponent of the seeds' share of the variance; with 3 seeds, 1 covers up to 97.7 % and 2 as little as 94 %."""
NORMAL = 1.959964
_T = (12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216)
"""Student's t at 97.5 % for 1 to 9 degrees of freedom."""


@dataclass(frozen=True)
class Side:
    """One measure of an arm at one point, over its seeds."""

    means: Values
    """[seeds] the measure of each seed."""
    influence: Values | None = None
    """[seeds, items] how far each item moves its seed's measure, times sqrt(n / (n - 1)); None: items unknown."""
    ids: NDArray[np.int64] | None = None
    """[items] item ids."""
    freedom: int = 0
    """Degrees of freedom of the items."""
    grain: float = 0.0
    """Added to the item variance for right-or-wrong answers: two half answers, one for either side."""
    error: float | None = None
    """Recorded standard error of one seed's measure over items; None: unknown."""


@dataclass(frozen=True)
class Interval:
    """The 95 % confidence interval of a difference."""

    low: float
    high: float
    method: str
    """`items`, `items and seeds`, `seeds`, `standard errors` or `standard errors and seeds`."""


def side_of(seeds: Sequence[Items]) -> Side | None:
    """Return the side computed from the items of every seed; None if items differ by seed or are fewer than two."""
    ids = seeds[0].ids
    if len(ids) < 2 or any(not np.array_equal(items.ids, ids) for items in seeds[1:]):
        return None
    values = np.stack([items.values for items in seeds])
    weights = np.stack([items.weights for items in seeds])
    shares = weights / weights.sum(axis=1, keepdims=True)
    means = (shares * values).sum(axis=1)
    count = len(ids)
    influence = shares * (values - means[:, None]) * math.sqrt(count / (count - 1))
    answers = bool(((values == 0) | (values == 1)).all() and (weights == 1).all())
    return Side(means, influence, ids, count - 1, 1 / count**2 if answers else 0.0)


def average(tasks: Sequence[Side]) -> Side | None:
    """Return the unweighted mean over tasks, whose items are independent; None if any task has no items."""
    share = 1 / len(tasks)
    influences = [task.influence for task in tasks if task.influence is not None]
    ids = [task.ids for task in tasks if task.ids is not None]
    if len(influences) < len(tasks) or len({len(task.means) for task in tasks}) > 1:
        return None
    return Side(
        np.mean([task.means for task in tasks], axis=0),
        share * np.concatenate(influences, axis=1),
        np.concatenate(ids),
        sum(task.freedom for task in tasks),
        share**2 * sum(task.grain for task in tasks),
    )


def scaled(side: Side, factors: Values) -> Side:
    """Return a measure multiplied by a known factor, [seeds]: bits per byte from nats per token."""
    assert side.influence is not None
    return Side(side.means * factors, side.influence * factors[:, None], side.ids, side.freedom)


def interval(first: Side, second: Side, difference: float, paired: bool) -> Interval | None:
    """Return the 95 % interval of `difference`, the mean of `second` minus that of `first`.

    `paired`: seed i of one side and seed i of the other form a pair (the same seed, or the same run at two points).
    None if neither items, nor recorded errors, nor several seeds are available to estimate the variance.
    """
    seeds, seeds_freedom = _seeds(first, second, paired)
    matched = _items(first, second, paired)
    method = []
    items, together, quantile = 0.0, 0.0, NORMAL
    if matched is not None:
        items, together = matched
        quantile = t_quantile(first.freedom)
        method.append("items")
    elif first.error is not None and second.error is not None:
        items = first.error**2 + second.error**2
        method.append("standard errors")
    if seeds_freedom:
        method.append("seeds")
    if not method:
        return None
    variance = seeds + max(0.0, items - together)
    critical = quantile**2
    if seeds > 0:
        critical += (t_quantile(seeds_freedom) ** 2 - quantile**2) * (seeds / variance) ** POWER
    half = math.sqrt(max(variance * critical, items))
    return Interval(difference - half, difference + half, " and ".join(method))


def t_quantile(freedom: int) -> float:
    """Return Student's t at 97.5 %, to 5 digits; beyond the table, by Fisher's expansion in 1 / freedom."""
    if freedom <= len(_T):
        return _T[freedom - 1]
    z = NORMAL
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))


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


def _items(first: Side, second: Side, paired: bool) -> tuple[float, float] | None:
    """Return the item variance of the difference and its item-seed interaction; None unless the items are the same."""
    if first.influence is None or second.influence is None or first.ids is None or second.ids is None:
        return None
    if not np.array_equal(first.ids, second.ids):
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
    return float(mean @ mean) + grain, within


def _squares(influence: Values) -> float:
    """Return the sum of squares about each item's mean over seeds."""
    return float(((influence - influence.mean(axis=0)) ** 2).sum())
