"""The statistics that only a study needs: how many pairs of runs would do, and tokens to a loss."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from train.report.student import NORMAL
from train.report.summary import POWER

Values = NDArray[np.float64]


def pairs_needed(deviation: float, difference: float, floor: float = 0.0) -> int | None:
    """Return the pairs of runs that find `difference` with 80 % power; None if no number of them does.

    Seed differences deviate by `deviation`. `floor`: half the 95 % interval that the choice of documents leaves at any
    number of pairs. With n pairs the squared standard error is deviation^2 / n + (floor / 1.96)^2, and a difference
    of 2.8 standard errors is found; two more pairs make up for Student's t.
    """
    left = (difference / POWER) ** 2 - (floor / NORMAL) ** 2
    return math.ceil(deviation**2 / left + 2) if left > 0 else None


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
