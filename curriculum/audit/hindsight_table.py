"""A table preference from hindsight: which bucket is wanted when.

What is remembered is split into a level per bucket, a curve over progress that all buckets share, and each bucket's
deviation from both. In an order that uses every sample once, levels move nothing. Two wishes can follow: a named bucket
where the curve is high, or every bucket where its own deviation is.

Shapes: P parts of the order, K buckets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curriculum.audit.hindsight import Hindsight

Floats = NDArray[np.float64]
STRENGTH = 1.0
"""Largest logarithm of a share relative to the bucket's share of the order: e-fold, 0.27 to 0.73 for one half of it."""
QUANTILE = 1.645
"""Of the normal distribution: what is below the 95th percentile of chance is not distinguished from it."""


@dataclass(frozen=True)
class Effects:
    """What is remembered as level_K + curve_P + own_PK, by weighted least squares."""

    curve_P: Floats
    """Mean over buckets with their shares of the order; nan for a part without positions."""
    error_P: Floats
    own_PK: Floats
    """Deviation of every bucket; 0 where it has no positions."""
    curve: Signal
    own: Signal


@dataclass(frozen=True)
class Signal:
    """Chi-square of values that would all be 0 but for noise."""

    chi_square: float
    freedom: int

    @property
    def kept(self) -> float:
        """Share of the values that is not noise (the positive part of James and Stein's factor); 0 unless their
        chi-square is above its 95th percentile (Wilson and Hilferty's approximation)."""
        if self.freedom < 1:
            return 0.0
        spread = 2 / (9 * self.freedom)
        limit = self.freedom * (1 - spread + QUANTILE * np.sqrt(spread)) ** 3
        return float(1 - self.freedom / self.chi_square) if self.chi_square > limit else 0.0


def effects_of(found: Hindsight) -> Effects:
    """Split what is remembered. Raises ValueError if levels and curve cannot be told apart."""
    parts, many = found.positions_PK.shape
    at_P, bucket = np.nonzero((found.positions_PK > 0) & (found.error_PK > 0))
    y, error = found.remembered_PK[at_P, bucket], found.error_PK[at_P, bucket]
    there, row = np.unique(at_P, return_inverse=True)
    design = np.zeros((len(y), len(there) + many))
    design[np.arange(len(y)), row] = 1
    design[np.arange(len(y)), len(there) + bucket] = 1
    weighted = design / error[:, None]
    rank = len(there) + len(np.unique(bucket)) - 1
    if len(there) < 2 or np.linalg.matrix_rank(weighted) < rank:
        raise ValueError(
            "hindsight: the buckets never meet in one part of the order, so what a bucket's samples and what their "
            "positions contribute cannot be told apart: take a run whose order mixes them, such as a shuffled one"
        )
    inverse = np.linalg.pinv(weighted.T @ weighted)
    values = inverse @ (weighted.T @ (y / error))
    share_K = found.positions_PK.sum(axis=0) / found.positions_PK.sum()
    to_curve = np.concatenate([np.eye(len(there)), np.tile(share_K, (len(there), 1))], axis=1)
    covariance = to_curve @ inverse @ to_curve.T
    curve, own_PK = np.full((2, parts), np.nan), np.zeros((parts, many))
    curve[0, there], curve[1, there] = to_curve @ values, np.sqrt(np.diag(covariance))
    left = y - design @ values
    own_PK[at_P, bucket] = left
    steps = np.diff(np.eye(len(there)), axis=0)
    rise = steps @ curve[0, there]
    along = float(rise @ np.linalg.solve(steps @ covariance @ steps.T, rise))
    return Effects(
        *(curve[0], curve[1], own_PK),
        curve=Signal(along, len(there) - 1),
        own=Signal(float(((left / error) ** 2).sum()), len(y) - rank),
    )


def wish_of(found: Hindsight, effects: Effects, prefer: str | None) -> tuple[Floats, float]:
    """Return the shares of every bucket in every part, [P, K], and how much of the signal is kept (0: flat shares).

    `prefer`: the bucket that is wanted where most is remembered; None: every bucket where it is remembered best
    compared with the others. The largest deviation from the bucket's share of the order is STRENGTH times what is kept.
    """
    share_K = found.positions_PK.sum(axis=0) / found.positions_PK.sum()
    signal, wish_PK = effects.own, effects.own_PK
    if prefer is not None:
        centred_P = effects.curve_P - np.nanmean(effects.curve_P)
        wish_PK = np.zeros_like(wish_PK)
        wish_PK[:, found.buckets.index(prefer)] = np.nan_to_num(centred_P)
        signal = effects.curve
    largest = max(float(np.abs(wish_PK).max()), 1e-300)
    shares_PK = share_K * np.exp(STRENGTH * signal.kept * wish_PK / largest)
    return shares_PK / shares_PK.sum(axis=1, keepdims=True), signal.kept


def as_csv(found: Hindsight, shares_PK: Floats) -> str:
    """Return the text of a `preference.file` of `preference=table`."""
    rows = [["progress", *found.buckets]]
    for progress, share_K in zip(found.progress_P, shares_PK, strict=True):
        rows.append([f"{progress:.6f}", *(f"{share:.6f}" for share in share_K)])
    return "".join(",".join(row) + "\n" for row in rows)
