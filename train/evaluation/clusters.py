"""Standard errors of a mean over items that come in groups: the windows of a document, the questions about a passage.

A measure is a weighted mean of items. A group g with share s_g of the weights moves it by s_g (y_g - mean), its
influence; groups are independent, items of a group need not be. The variance is the sum of squared influences, each
divided by 1 - s_g, times (G - 1) / G: the jackknife over G groups (CR3). It is the usual s^2 / n for items of equal
weight that are their own groups, and errs to the wide side where a few groups hold most of the weight. Student's t has
as many degrees of freedom as equal groups that would give the same fourth moment: (sum s^2)^2 / sum s^4 - 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.evaluation.answers import Items

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Clustered:
    """How much each group of items moves a measure, for one or more runs that answered the same items."""

    means: Values
    """[runs] the measure."""
    influence: Values
    """[runs, groups] the sum of squares is the variance of the measure over items."""
    freedom: float
    """Degrees of freedom of that variance, at least 1."""
    concentration: float
    """Sum of squared shares: 1 / groups if all have the same weight."""


def clustered(runs: Sequence[Items]) -> Clustered | None:
    """Return the influences of the groups, given the same items by every run; None for fewer than two groups.

    Items without groups count as their own groups.
    """
    first = runs[0]
    groups = first.ids if first.groups is None else first.groups
    _, place = np.unique(groups, return_inverse=True)
    weights_G = np.bincount(place, weights=first.weights)
    if len(weights_G) < 2:
        return None
    shares = first.weights / first.weights.sum()
    share_G = weights_G / weights_G.sum()
    means = np.stack([items.values for items in runs]) @ shares
    moved = [np.bincount(place, weights=shares * (run.values - mean)) for run, mean in zip(runs, means, strict=True)]
    count = len(share_G)
    influence = np.stack(moved) / (1 - share_G) * math.sqrt((count - 1) / count)
    squares = float((share_G**2).sum())
    equal = squares**2 / float((share_G**4).sum())
    return Clustered(means, influence, max(1.0, equal - 1), squares)


def standard_error(items: Items) -> float | None:
    """Return the standard error of a measure over its items, by groups; None for fewer than two groups."""
    found = clustered([items])
    return None if found is None else float(np.sqrt((found.influence**2).sum()))
