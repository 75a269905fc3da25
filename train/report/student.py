"""Student's t distribution: quantiles at 97.5 % and tails, for any real degrees of freedom."""

from __future__ import annotations

from scipy.special import stdtr, stdtridf, stdtrit

NORMAL = 1.959963984540054
"""The quantile for infinitely many degrees of freedom."""


def t_quantile(freedom: float) -> float:
    """Return Student's t at 97.5 %; at least 1 degree of freedom."""
    return float(stdtrit(freedom, 0.975))


def p_value(distance: float, half: float, quantile: float) -> float:
    """Return the two-sided p-value of a difference at `distance` from zero whose 95 % interval is +- `half`.

    `quantile` is half divided by the standard error: it says with how many degrees of freedom, at least 1, the interval
    was computed. The p-value is 0.05 where the interval just reaches zero.
    """
    if distance == 0:
        return 1.0
    if half == 0:
        return 0.0
    freedom = float("inf") if quantile <= NORMAL + 1e-6 else stdtridf(0.975, quantile)
    return tail(distance / half * quantile, freedom)


def tail(t: float, freedom: float) -> float:
    """Return the probability of a value beyond +-t."""
    return float(2 * stdtr(freedom, -abs(t)))
