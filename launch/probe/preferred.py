"""The preferred shares at one checkpoint: the minimum of a quadratic through the measured branches, with intervals.

The loss of a mixture a is fitted by sum_k b_k a_k + c_k a_k^2 (for two buckets: any quadratic of the high share), by
least squares over all branches; the preferred mixture is its minimum over all mixtures. The 95 % interval is that of
the minima of resampled fits: the held-out documents are resampled, the same for all branches, and the noise of single
branches is drawn from the deviations from the fit (Student's t with their degrees of freedom). Both ends are clipped
to the mixtures, so an interval at 0 or 1 says that the preference may lie beyond what a batch can hold.

Shapes: B branches, D documents, K buckets, R resamples, F coefficients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from launch.probe.branches import Branch

Values = NDArray[np.float64]

RESAMPLES, AT_ONCE = 2_000, 250
LEVEL = 0.95
DESCENTS, STILL = 500, 1e-10
"""Most steps of projected gradient descent, and the movement that ends it."""


@dataclass(frozen=True)
class Measured:
    """The measure at the end of a branch."""

    branch: Branch
    value: float
    documents: Mapping[int, tuple[float, float]] | None = None
    """(mean, weight) by document or question; None if the measure has none."""


@dataclass(frozen=True)
class Preferred:
    """The preferred mixture at one checkpoint."""

    from_step: int
    progress: float
    shares: list[float]
    """By bucket."""
    low: list[float]
    high: list[float]
    """Ends of the 95 % intervals."""
    deviation: float
    """Standard deviation of single branches from the fit, in units of the measure."""
    documents: int
    """Documents that were resampled; 0: the interval has the noise of branches only."""
    linear: list[float]
    quadratic: list[float]
    """Coefficients of the fit, b and c, for a measure of which less is better."""
    draws_RK: Values
    """Minima of the resampled fits."""

    def fitted(self, shares_BK: Values) -> Values:
        """Return the fitted loss of mixtures, [B]."""
        return _terms(shares_BK) @ np.array([*self.linear, *self.quadratic])


def preferred(measured: Sequence[Measured], progress: float, lower_is_better: bool, seed: int = 0) -> Preferred:
    """Return the preferred mixture of the branches of one checkpoint.

    Raises ValueError if there are too few branches for a quadratic and its deviation.
    """
    shares_BK = np.array([one.branch.shares for one in measured])
    sign = 1.0 if lower_is_better else -1.0
    loss_B = sign * np.array([one.value for one in measured])
    terms_BF = _terms(shares_BK)
    rank = int(np.linalg.matrix_rank(terms_BF))
    freedom = len(measured) - rank
    if freedom < 1:
        step = measured[0].branch.from_step if measured else 0
        raise ValueError(
            f"step {step}: {len(measured)} finished branches are too few for a quadratic with {rank} coefficients: "
            "finish the others, or give more shares or seeds"
        )
    solve_FB = np.linalg.pinv(terms_BF)
    coefficients_F = solve_FB @ loss_B
    deviation = float(np.sqrt(((loss_B - terms_BF @ coefficients_F) ** 2).sum() / freedom))
    draw = np.random.default_rng([seed, measured[0].branch.from_step])
    documents = _table(measured)
    minima = []
    for count in [AT_ONCE] * (RESAMPLES // AT_ONCE):
        loss_RB = np.tile(loss_B, (count, 1)) if documents is None else sign * _resampled(*documents, count, draw)
        scale_R = deviation * np.sqrt(freedom / draw.chisquare(freedom, count))
        noise_RB = scale_R[:, None] * draw.standard_normal((count, len(measured)))
        minima.append(minimum((loss_RB + noise_RB) @ solve_FB.T))
    draws_RK = np.concatenate(minima)
    low_K, high_K = np.quantile(draws_RK, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    shares_K = minimum(coefficients_F[None])[0]
    buckets = shares_BK.shape[1]
    return Preferred(
        measured[0].branch.from_step,
        progress,
        shares_K.tolist(),
        np.minimum(low_K, shares_K).tolist(),
        np.maximum(high_K, shares_K).tolist(),
        deviation,
        0 if documents is None else documents[0].shape[1],
        coefficients_F[:buckets].tolist(),
        coefficients_F[buckets:].tolist(),
        draws_RK,
    )


def minimum(coefficients_RF: Values) -> Values:
    """Return the mixtures that minimise sum_k b_k a_k + c_k a_k^2, [R, K], for coefficients (b, c) [R, 2 K].

    Exact for two buckets. Else projected gradient descent from the even mixture and from every corner; the lowest end
    wins, because a fit to noise need not be convex.
    """
    linear_RK, quadratic_RK = np.split(coefficients_RF, 2, axis=1)
    rows, buckets = linear_RK.shape
    if buckets == 2:
        curvature_R = quadratic_RK.sum(axis=1)
        rise_R = linear_RK[:, 1] - linear_RK[:, 0] - 2 * quadratic_RK[:, 0]  # of the loss with the high share, from 0
        with np.errstate(divide="ignore", invalid="ignore"):
            inside_R = np.clip(-rise_R / (2 * curvature_R), 0, 1)
        high_R = np.where(curvature_R > 0, inside_R, rise_R + curvature_R < 0)
        return np.stack([1 - high_R, high_R], axis=1)
    steepness_R = 2 * np.abs(quadratic_RK).max(axis=1, keepdims=True)
    rate_R = 1 / np.maximum(steepness_R, 1e-12 + 1e-3 * np.abs(linear_RK).max(axis=1, keepdims=True))
    best_RK, lowest_R = np.zeros((rows, buckets)), np.full(rows, np.inf)
    for start_K in (np.full(buckets, 1 / buckets), *np.eye(buckets)):
        now_RK = np.tile(start_K, (rows, 1))
        for _ in range(DESCENTS):
            before_RK = now_RK
            now_RK = on_simplex(now_RK - rate_R * (linear_RK + 2 * quadratic_RK * now_RK))
            if np.abs(now_RK - before_RK).max() < STILL:
                break
        loss_R = (linear_RK * now_RK + quadratic_RK * now_RK**2).sum(axis=1)
        lower_R = loss_R < lowest_R - 1e-15
        best_RK[lower_R], lowest_R[lower_R] = now_RK[lower_R], loss_R[lower_R]
    return best_RK


def on_simplex(points_RK: Values) -> Values:
    """Return the mixtures nearest to points, [R, K] (Duchi et al., ICML 2008)."""
    sorted_RK = -np.sort(-points_RK, axis=1)
    number_K = np.arange(1, points_RK.shape[1] + 1)
    excess_RK = (np.cumsum(sorted_RK, axis=1) - 1) / number_K
    last_R = (sorted_RK > excess_RK).sum(axis=1) - 1
    nearest_RK: Values = np.maximum(points_RK - np.take_along_axis(excess_RK, last_R[:, None], axis=1), 0)
    return nearest_RK


def _terms(shares_BK: Values) -> Values:
    """Return the terms of the fit, [B, F]; a constant is in them, because shares sum to 1."""
    return np.concatenate([shares_BK, shares_BK**2], axis=1)


def _table(measured: Sequence[Measured]) -> tuple[Values, Values] | None:
    """Return means and weights by document, [B, D] both; None unless all branches have the same documents."""
    tables = [one.documents for one in measured]
    known = [table for table in tables if table]
    if len(known) < len(tables) or any(table.keys() != known[0].keys() for table in known) or len(known[0]) < 2:
        return None
    both = np.array([[table[document] for document in known[0]] for table in known])
    return both[:, :, 0], both[:, :, 1]


def _resampled(means_BD: Values, weights_BD: Values, count: int, draw: np.random.Generator) -> Values:
    """Return the measure of every branch over documents drawn with replacement, the same for all branches, [R, B]."""
    documents = means_BD.shape[1]
    counts_RD = draw.multinomial(documents, np.full(documents, 1 / documents), size=count).astype(np.float64)
    resampled: Values = (counts_RD @ (weights_BD * means_BD).T) / (counts_RD @ weights_BD.T)
    return resampled
