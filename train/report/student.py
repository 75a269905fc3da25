"""Student's t distribution: quantiles at 97.5 % and tails, for any real degrees of freedom."""

from __future__ import annotations

import math

NORMAL = 1.959964
_T = (12.7062, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216)
"""Student's t at 97.5 % for 1 to 9 degrees of freedom."""


def t_quantile(freedom: float) -> float:
    """Return Student's t at 97.5 %; at least 1 degree of freedom.

    Within 3e-4 for whole numbers and from 9 on, by Fisher's expansion in 1 / freedom. Between whole numbers below 9 it
    is interpolated in 1 / freedom, which is slightly too large.
    """
    if freedom <= len(_T):
        lower = min(int(freedom), len(_T) - 1)
        share = (1 / lower - 1 / freedom) * lower * (lower + 1)
        return _T[lower - 1] + share * (_T[lower] - _T[lower - 1])
    z = NORMAL
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return z + sum(term / freedom ** (power + 1) for power, term in enumerate(terms))


def p_value(distance: float, half: float, quantile: float) -> float:
    """Return the two-sided p-value of a difference at `distance` from zero whose 95 % interval is +- `half`.

    `quantile` is half divided by the standard error: it says with how many degrees of freedom, at least 1, the interval
    was computed. The p-value is 0.05 where the interval just reaches zero.
    """
    if distance == 0:
        return 1.0
    if half == 0:
        return 0.0
    t = distance / half * quantile
    if quantile <= NORMAL + 1e-6:
        return math.erfc(t / math.sqrt(2))
    low, high = 1.0, 1e9  # bisection on a logarithmic scale: the quantile falls with the degrees of freedom
    for _ in range(40):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if t_quantile(middle) > quantile else (low, middle)
    return tail(t, low)


def tail(t: float, freedom: float) -> float:
    """Return the probability of a value beyond +-t, from the incomplete beta function (Abramowitz and Stegun, 26.5)."""
    x = freedom / (freedom + t * t)
    a, b = freedom / 2, 0.5
    if x < (a + 1) / (a + b + 2):
        return _beta(x, a, b)
    return 1 - _beta(1 - x, b, a)


def _beta(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function by its continued fraction, evaluated with Lentz's method."""
    if x <= 0:
        return 0.0
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    ) / a  # fmt: skip
    tiny = 1e-300
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1) or tiny)
    total = d
    for m in range(1, 300):
        for step in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / (1 + step * d or tiny)
            c = 1 + step / c or tiny
            total *= c * d
        if abs(c * d - 1) < 1e-12:
            break
    return front * total
