"""How sure is a difference? 95 % intervals from the items that both sides answered, and from seeds.

A measure of one seed is a weighted mean of items. The influence of an item, w (y - mean) / sum(w), is how far it moves
that mean; the influences of the same items on both sides, subtracted item by item, give the variance that the choice of
items has. A paired bootstrap of the items comes to the same variance with ever more resamples; here it is without their
chance, and at once. Seeds are the second level: their variance is that of the differences seed by seed (arms with the
same seeds) or is pooled over both arms. What items and seeds do together is in both and is taken off once:

    variance = seeds + max(0, items - together)
    half width = sqrt(variance * (z^2 + (t^2 - z^2) * share^1.5)),   share = seeds / variance

with t of the seeds' degrees of freedom and z of the items': exact where either variance is alone, and between 94 and
97.5 % for any mixture of the two with 2 seeds, 94.8 and 96.4 with 3, 95.0 and 95.7 with 5 (computed, for normal seeds
and many items; Satterthwaite's rule goes down to 92 with 3). It is never below one standard error of the items: few
seeds that happen to agree are no proof. A two-level bootstrap of 3 seeds sees 2/3 of their variance, and quantiles of
many. `python -m benchmarks.interval_coverage` simulates both.
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
"""Of the seeds' share of the variance; 1 covers up to 97.7 % with 3 seeds, 2 as little as 94."""
NORMAL = 1.959964
_T = (12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216)
"""Student's t at 97.5 % for 1 to 9 degrees of freedom."""


@dataclass(frozen=True)
class Side:
    """What the seeds of an arm gave for one measure at one moment."""

    means: Values
    """[seeds] the measure of each seed."""
    influence: Values | None = None
    """[seeds, items] how far each item moves its seed's measure, times sqrt(n / (n - 1)); None: items not known."""
    ids: NDArray[np.int64] | None = None
    """[items] which items."""
    freedom: int = 0
    """Degrees of freedom of the items."""
    grain: float = 0.0
    """What two half answers, one for either side, add to the items' variance where answers are right or wrong."""
    error: float | None = None
    """Standard error of one seed's measure over items, as recorded; None: not known."""


@dataclass(frozen=True)
class Interval:
    """A 95 % interval of a difference."""

    low: float
    high: float
    method: str
    """`items`, `items and seeds`, `seeds`, `standard errors` or `standard errors and seeds`."""


def side_of(seeds: Sequence[Items]) -> Side | None:
    """Return what the items of every seed of an arm say; None when seeds were asked other items, or fewer than two."""
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
    """Return the plain mean of measures over tasks; items of different tasks are independent. None without items."""
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
    """Return a measure that is another one times a known factor, [seeds]: bits a byte from nats a token."""
    assert side.influence is not None
    return Side(side.means * factors, side.influence * factors[:, None], side.ids, side.freedom)


def interval(first: Side, second: Side, difference: float, paired: bool) -> Interval | None:
    """Return the 95 % interval of `difference`, the mean of `second` minus that of `first`.

    `paired`: seed i of one side and seed i of the other are a pair (the same seed, or the same run at two moments).
    None when neither items, nor recorded errors, nor several seeds tell anything of its chance.
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
    """Return Student's t at 97.5 %, to 5 digits; beyond a table by Fisher's expansion in 1 / freedom."""
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
    """Variance of the difference by its seeds, and its degrees of freedom; with one seed a side none are known."""
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
    """Variance of the difference by its items, and the part of it that items and seeds make together; None unpaired."""
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
    """Sum of the squares about every item's mean over seeds."""
    return float(((influence - influence.mean(axis=0)) ** 2).sum())
