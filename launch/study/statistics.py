"""The statistics of a study: paired tests over seeds, a bootstrap over seeds and documents.

Shapes: S seeds, D documents. A difference is arm minus baseline at equal seeds; for a loss, negative is a gain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.report.student import t_quantile, tail

Values = NDArray[np.float64]

LEVEL = 0.95
RESAMPLES, AT_ONCE = 10_000, 500
POWER_FACTOR = 2.8
"""z(0.975) + z(0.8): the difference in standard errors that a test finds with a power of 80 %."""
ROBUST, SUGGESTIVE, UNSUPPORTED = "robust", "suggestive", "not supported"


@dataclass(frozen=True)
class Estimate:
    """A mean difference with its 95 % interval."""

    value: float
    low: float
    high: float
    p: float
    """Two-sided p-value; NaN for the bootstrap."""
    seeds: int

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def paired_t(differences_S: Values) -> Estimate:
    """Return the mean of seed differences with Student's interval and p-value. Raises ValueError for fewer than 2."""
    count = len(differences_S)
    if count < 2:
        raise ValueError(f"{count} pair of runs has no spread: give at least 2 seeds")
    mean, error = float(differences_S.mean()), float(differences_S.std(ddof=1)) / math.sqrt(count)
    half = t_quantile(count - 1) * error
    p = tail(abs(mean) / error, count - 1) if error > 0 else float(mean == 0.0)
    return Estimate(mean, mean - half, mean + half, p, count)


def nested_bootstrap(
    first_SD: Values, second_SD: Values, weights_SD: Values, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Return the difference with a percentile interval that resamples seeds, and documents within them.

    The values are means by document, the weights its labels; a seed's measure is the weighted mean. Both arms of a seed
    share documents and resampling. Percentile intervals of few seeds are too short: the seeds' deviations are
    stretched by sqrt(S / (S - 1)). Raises ValueError for fewer than 2 seeds or documents.
    """
    seeds, documents = first_SD.shape
    if seeds < 2 or documents < 2:
        raise ValueError(f"{seeds} seeds and {documents} documents cannot be resampled: at least 2 of both are needed")
    draw = np.random.default_rng(seed)
    each_SD = weights_SD * (second_SD - first_SD)
    value = float((each_SD.sum(1) / weights_SD.sum(1)).mean())
    stretch = math.sqrt(seeds / (seeds - 1))
    means = []
    for count in [AT_ONCE] * (resamples // AT_ONCE):
        counts_RD = draw.multinomial(documents, np.full(documents, 1 / documents), size=count)
        by_seed_RS = (counts_RD @ each_SD.T) / (counts_RD @ weights_SD.T)
        chosen_RS = draw.integers(0, seeds, (count, seeds))
        center_R = by_seed_RS.mean(1)
        means.append(center_R + stretch * (np.take_along_axis(by_seed_RS, chosen_RS, 1).mean(1) - center_R))
    low, high = np.quantile(np.concatenate(means), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value, float(low), float(high), math.nan, seeds)


def tier(estimates: Sequence[Estimate], repeated: bool) -> str:
    """Return the evidence for a difference from its intervals, and whether a second target or pool repeats it."""
    if estimates and all(one.excludes_zero for one in estimates):
        return ROBUST if repeated else SUGGESTIVE
    return UNSUPPORTED


def pairs_needed(deviation: float, difference: float) -> int:
    """Return the pairs of runs that find `difference` with 80 % power if seed differences deviate by `deviation`."""
    return math.ceil((POWER_FACTOR * deviation / difference) ** 2 + 2)


def tokens_to(loss: float, tokens_P: Values, losses_P: Values) -> float | None:
    """Return the tokens after which a curve of P points first reaches `loss`, by linear interpolation in log tokens.

    None if it never does, or has by its first point: then there is nothing to interpolate.
    """
    reached = np.flatnonzero(losses_P <= loss)
    if len(reached) == 0 or reached[0] == 0:
        return None
    after = int(reached[0])
    share = (losses_P[after - 1] - loss) / (losses_P[after - 1] - losses_P[after])
    logs = np.log(tokens_P[[after - 1, after]])
    return float(np.exp(logs[0] + share * (logs[1] - logs[0])))
