"""The preference through the preferred shares: shares by progress whose mean over the run is the bucket's share of it.

That mean is the exactly-once constraint: a run that reads every sample once reads all of every bucket. So it sets the
level, and only the shape is fitted: a model that prefers the same share everywhere, however large, gets a constant.
Each preferred share counts by the inverse square of its interval's width.

    logistic   log a_k(p) = u_k + s_k p, less the logarithm of their sum: one slope per bucket (the first has none), and
               the u_k are those that meet the constraint. With two buckets the high share is a logistic function of p.
    monotone   two buckets: the nearest high shares that only rise, or only fall (isotonic regression), moved up or down
               together until their mean meets the constraint; linear between the checkpoints.

Shapes: P checkpoints, G points of a grid, R rows of the table, K buckets.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curriculum.arrange.plan import scaled
from curriculum.preference.by_share import log_interpolated

Values = NDArray[np.float64]

GRID = 200
SAMPLES = 1_000_000
"""Samples per point of the grid: the plan takes whole numbers."""
ROWS = 101
STEEPEST = 60.0
"""Largest slope of a logarithm over the run: nine tenths of a change from one bucket to the other take 10 % of it."""
ITERATIONS, NUDGE, LONGEST, SETTLED = 60, 1e-4, 10.0, 1e-6
"""Of the fit of slopes: most iterations, step of the numerical derivative, largest and last change of a slope."""
NARROWEST = 0.1
"""Width of an interval below which a preferred share counts no more: one at 0 or 1 can have no width."""
EDGE = 0.01
"""Smallest share in a table: a bucket that is never wanted leaves the plan no room."""


@dataclass(frozen=True)
class Fitted:
    """A preference as a table."""

    fit: str
    progress: list[float]
    """Of every row, rising."""
    shares: list[list[float]]
    """By row and bucket."""
    slopes: list[float] | None
    """By bucket, of a logistic."""
    off_constraint: float
    """Largest distance of a bucket's mean share from its share of the run."""
    off_plan: float
    """Largest change of a share when the plan meets the constraint exactly."""

    def at(self, points: Sequence[float]) -> Values:
        """Return the shares at points of progress, [P, K]."""
        return np.exp(log_interpolated(np.array(points), np.array(self.progress), np.array(self.shares)))


def fit(kind: str, progress_P: Values, shares_PK: Values, width_P: Values, sizes_K: Values) -> Fitted:
    """Return the preference of a kind (`logistic` or `monotone`) nearest to the preferred shares.

    `width_P` are the widths of their intervals, `sizes_K` the buckets' shares of the run, which sum to 1.
    """
    weight_P = 1 / np.maximum(width_P, NARROWEST) ** 2
    slopes: list[float] | None = None
    if kind == "monotone":
        high_P = _monotone(progress_P, shares_PK[:, 1], weight_P, float(sizes_K[1]))
        rows_R, table_RK = progress_P, np.stack([1 - high_P, high_P], axis=1)
    else:
        slope_K = _slopes(progress_P, shares_PK, weight_P, sizes_K)
        rows_R = np.linspace(0, 1, ROWS)
        table_RK, slopes = logistic(slope_K, sizes_K)(rows_R), slope_K.tolist()
    table_RK = table_RK.round(6)
    off_constraint, off_plan = distances(rows_R, table_RK, sizes_K)
    return Fitted(kind, rows_R.tolist(), table_RK.tolist(), slopes, off_constraint, off_plan)


def logistic(slope_K: Values, sizes_K: Values) -> Callable[[Values], Values]:
    """Return the logistic preference with these slopes whose mean is `sizes_K`: progress [P] to shares [P, K]."""
    middle_G = (np.arange(GRID) + 0.5) / GRID
    plan_GK = _planned(np.outer(middle_G, slope_K), sizes_K)
    center = GRID // 2
    at_K = np.log(np.maximum(plan_GK[center], 1e-300)) - slope_K * middle_G[center]

    def shares(progress_P: Values) -> Values:
        log_PK = at_K + np.outer(progress_P, slope_K)
        share_PK = np.exp(log_PK - log_PK.max(axis=1, keepdims=True))
        return np.asarray(share_PK / share_PK.sum(axis=1, keepdims=True))

    return shares


def distances(progress_R: Values, table_RK: Values, sizes_K: Values) -> tuple[float, float]:
    """Return how far a table is from the exactly-once constraint: of its means, and of its shares once planned."""
    middle_G = (np.arange(GRID) + 0.5) / GRID
    log_GK = log_interpolated(middle_G, progress_R, table_RK)
    wish_GK = np.exp(log_GK)
    wish_GK /= wish_GK.sum(axis=1, keepdims=True)
    mean_K = weights_of(progress_R) @ (table_RK / table_RK.sum(axis=1, keepdims=True))
    return float(np.abs(mean_K - sizes_K).max()), float(np.abs(_planned(log_GK, sizes_K) - wish_GK).max())


def weights_of(progress_R: Values) -> Values:
    """Return the weight of every row in the mean over the run, [R]: linear between rows, constant before and after."""
    edges = np.concatenate([[0.0], (progress_R[1:] + progress_R[:-1]) / 2, [1.0]])
    return np.diff(edges)


def as_csv(fitted: Fitted, names: Sequence[str]) -> str:
    """Return the table as the file of `preference=table`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["progress", *names])
    for point, row in zip(fitted.progress, fitted.shares, strict=True):
        writer.writerow([f"{point:.6g}", *(f"{share:.6f}" for share in row)])
    return text.getvalue()


def _planned(log_GK: Values, sizes_K: Values) -> Values:
    """Return shares scaled as an order's plan scales them, [G, K]."""
    counts_K = np.floor(sizes_K * GRID * SAMPLES).astype(np.int64)
    counts_K[np.argmax(counts_K)] += GRID * SAMPLES - int(counts_K.sum())
    return scaled(log_GK.copy(), np.full(GRID, float(SAMPLES)), counts_K) / SAMPLES


def _slopes(progress_P: Values, shares_PK: Values, weight_P: Values, sizes_K: Values) -> Values:
    """Return the slopes of the nearest logistic preference, [K]: least squares by Levenberg and Marquardt's method."""
    weight_P = weight_P / weight_P.sum()

    def residuals(slope_F: Values) -> Values:
        off_PK = logistic(np.concatenate([[0.0], slope_F]), sizes_K)(progress_P) - shares_PK
        return np.asarray(np.sqrt(weight_P)[:, None] * (off_PK - weight_P @ off_PK)).ravel()

    slope_F = np.zeros(len(sizes_K) - 1)
    now, damping = residuals(slope_F), 1e-4
    for _ in range(ITERATIONS):
        nudges = NUDGE * np.eye(len(slope_F))
        jacobian = np.stack([(residuals(slope_F + nudge) - now) / NUDGE for nudge in nudges], axis=1)
        square = jacobian.T @ jacobian
        step_F = np.linalg.solve(square + (damping + 1e-12) * np.eye(len(slope_F)), -jacobian.T @ now)
        tried_F = np.clip(slope_F + np.clip(step_F, -LONGEST, LONGEST), -STEEPEST, STEEPEST)
        after = residuals(tried_F)
        if after @ after > now @ now:
            damping *= 10
            continue
        moved = float(np.abs(tried_F - slope_F).max())
        slope_F, now, damping = tried_F, after, damping / 10
        if moved < SETTLED:
            break
    return np.concatenate([[0.0], slope_F])


def _monotone(progress_P: Values, high_P: Values, weight_P: Values, size: float) -> Values:
    """Return the nearest monotone shape with the mean `size`, rising or falling, whichever is nearer, [P]."""
    found = [sign * isotonic(sign * high_P, weight_P) for sign in (1.0, -1.0)]
    errors = [float(weight_P @ (shares_P - high_P) ** 2) for shares_P in found]
    shape_P, mean_P = found[int(np.argmin(errors))], weights_of(progress_P)
    low, high = -1.0, 1.0
    for _ in range(60):
        shift = (low + high) / 2
        low, high = (low, shift) if mean_P @ np.clip(shape_P + shift, EDGE, 1 - EDGE) >= size else (shift, high)
    return np.clip(shape_P + (low + high) / 2, EDGE, 1 - EDGE)


def isotonic(values_P: Values, weight_P: Values) -> Values:
    """Return the nearest rising values in weighted least squares, [P]: pool adjacent violators."""
    blocks: list[tuple[float, float, int]] = []
    for value, weight in zip(values_P, weight_P, strict=True):
        blocks.append((float(value), float(weight), 1))
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            (first, first_weight, first_count), (second, second_weight, second_count) = blocks[-2:]
            total = first_weight + second_weight
            mean = (first * first_weight + second * second_weight) / total
            blocks[-2:] = [(mean, total, first_count + second_count)]
    return np.concatenate([np.full(count, value) for value, _, count in blocks])
