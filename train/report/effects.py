"""What an order's effect consists of: its direction, and the price of any asymmetry (antithetic twins).

With L the measure of an order, its mirrored twin L' and the tied control L0 (`pdpc arrange twin=...`),

    odd  = (L - L') / 2            what depends on the direction: it changes its sign with the order's
    even = (L + L') / 2 - L0       what any order of this strength costs, whichever its direction

so that L = L0 + even + odd and L' = L0 + even - odd: the antithetic pairs of Monte Carlo integration.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from train.report.intervals import Interval, Side, interval, same_items


@dataclass(frozen=True)
class Effect:
    """One part of an order's effect."""

    value: float
    interval: Interval | None
    """95 %; None without several seeds or items that all three have in common."""


def odd_and_even(order: Side, mirrored: Side, tied: Side) -> tuple[Effect, Effect]:
    """Return the odd and the even part of an order's effect on a measure; seed i of all three belongs together.

    Both are differences of paired sides, so that seeds and items cancel as in any comparison of arms. Raises ValueError
    for sides with different numbers of seeds.
    """
    counts = {len(side.means) for side in (order, mirrored, tied)}
    if len(counts) > 1:
        raise ValueError(
            f"an order, its mirrored twin and the tied one have {len(order.means)}, {len(mirrored.means)} and "
            f"{len(tied.means)} seeds: compare the seeds that all three have"
        )
    none = _mixed((order, mirrored), (0.0, 0.0))
    return (
        _difference(none, _mixed((order, mirrored), (0.5, -0.5))),
        _difference(tied, _mixed((order, mirrored), (0.5, 0.5))),
    )


def _difference(first: Side, second: Side) -> Effect:
    value = float(second.means.mean() - first.means.mean())
    return Effect(value, interval(first, second, value, paired=True))


def _mixed(sides: tuple[Side, Side], weights: tuple[float, float]) -> Side:
    """Return a weighted sum of two measures of the same items; their items are unknown if they differ."""
    (one, other), (a, b) = sides, weights
    means = a * one.means + b * other.means
    if one.influence is None or other.influence is None or not same_items(one, other):
        errors = [side.error for side in sides]
        known = [error for error in errors if error is not None]
        error = float(np.hypot(a * known[0], b * known[1])) if len(known) == len(errors) else None
        return Side(means, error=error)
    influence = a * one.influence + b * other.influence
    return Side(means, influence, one.items, one.tasks, max(one.grain, other.grain))
