"""The plan: a wish (affinity of steps for buckets) turned into whole numbers that use every sample once.

Shapes: S steps, K buckets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

SINKHORN_TOLERANCE = 1e-11
SINKHORN_ROUNDS = 20_000
DIVERGED = 1e200
"""Column factors beyond this (or below its inverse) mean that no scaling meets the sums."""
ROUNDING_NOISE = 1e-7
"""Cumulative targets this near to a whole number count as that number: they differ by floating-point noise alone."""


def plan(affinity: ArrayLike, batch_size: int, counts: ArrayLike) -> NDArray[np.int64]:
    """Return the table [S, K] of samples each step takes from each bucket.

    `affinity` float [S, K] says how much each bucket is wanted at each step (only ratios inside a row matter);
    `counts` int [K] are the buckets' samples. Rows of the result sum to `batch_size` (the last one to what is left),
    columns to `counts`, and the running count of a bucket is never off the real plan by one sample or more.
    Raises ValueError for a wish that cannot be met or numbers that do not fit. O(S * K) a scaling round.
    """
    counts_K = np.asarray(counts, dtype=np.int64)
    return round_plan(real_plan(affinity, batch_size, counts_K), batch_size, counts_K)


def real_plan(affinity: ArrayLike, batch_size: int, counts: ArrayLike) -> NDArray[np.float64]:
    """Return the real-valued plan [S, K] nearest to the affinity in KL divergence, by Sinkhorn scaling.

    Rows and columns are scaled in turn until both sums hold (Sinkhorn and Knopp, 1967). Raises ValueError naming
    bucket and step when the affinity is zero where samples must go.
    """
    wish_SK = np.array(affinity, dtype=np.float64)
    counts_K = np.asarray(counts, dtype=np.int64)
    sizes_S = _checked_sizes(wish_SK, batch_size, counts_K)
    filled = counts_K > 0
    result: NDArray[np.float64] = np.zeros_like(wish_SK)
    result[:, filled] = _scale(wish_SK[:, filled], sizes_S, counts_K[filled])
    return result


def _scale(
    wish_SK: NDArray[np.float64], sizes_S: NDArray[np.int64], counts_K: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Scale rows and columns of a checked wish to their sums; no bucket is empty."""
    if wish_SK.shape[1] == 1:
        return sizes_S[:, None].astype(np.float64)
    wish_SK = wish_SK / wish_SK.max(axis=1, keepdims=True)
    column_K = np.ones(len(counts_K))
    for _ in range(SINKHORN_ROUNDS):
        row_S = sizes_S / (wish_SK @ column_K)
        reached_K = column_K * (row_S @ wish_SK)
        if np.all(np.abs(reached_K - counts_K) <= SINKHORN_TOLERANCE * counts_K):
            return np.asarray(row_S[:, None] * wish_SK * column_K)
        column_K = column_K * counts_K / reached_K
        if column_K.max() > DIVERGED or column_K.min() < 1 / DIVERGED:
            break
    raise _infeasible(counts_K, reached_K)


def _infeasible(counts_K: NDArray[np.int64], reached_K: NDArray[np.float64]) -> ValueError:
    short = int(np.argmax(counts_K - reached_K))
    return ValueError(
        f"plan: the preference cannot be met: bucket {short} has {counts_K[short]} samples, but the steps that want it "
        f"take {reached_K[short]:.6g} at most: give it a share above zero at more steps"
    )


def _checked_sizes(wish_SK: NDArray[np.float64], batch_size: int, counts_K: NDArray[np.int64]) -> NDArray[np.int64]:
    """Check a wish against batch size and counts; return the samples of every step, [S]."""
    if wish_SK.ndim != 2 or wish_SK.shape[1] != len(counts_K) or len(counts_K) == 0:
        raise ValueError(
            f"plan: affinity has shape {wish_SK.shape}, but there are {len(counts_K)} buckets: give [steps, buckets]"
        )
    if batch_size < 1:
        raise ValueError(f"plan: batch_size={batch_size} must be at least 1")
    if (counts_K < 0).any():
        raise ValueError(f"plan: counts {counts_K.tolist()} hold a negative number")
    total = int(counts_K.sum())
    steps = -(-total // batch_size)
    if total == 0 or wish_SK.shape[0] != steps:
        raise ValueError(
            f"plan: {total} samples in batches of {batch_size} make {steps} steps, "
            f"but affinity has {wish_SK.shape[0]} rows"
        )
    if not np.isfinite(wish_SK).all() or (wish_SK < 0).any():
        step, bucket = np.argwhere(~(np.isfinite(wish_SK) & (wish_SK >= 0)))[0]
        raise ValueError(
            f"plan: affinity of step {step} for bucket {bucket} is {wish_SK[step, bucket]}: "
            "give finite numbers of at least 0"
        )
    filled_K = counts_K > 0
    empty_steps = np.flatnonzero(wish_SK[:, filled_K].max(axis=1) <= 0)
    if len(empty_steps):
        raise ValueError(f"plan: step {empty_steps[0]} wants no bucket that has samples: give one a share above zero")
    unwanted = np.flatnonzero(filled_K & (wish_SK.max(axis=0) <= 0))
    if len(unwanted):
        raise ValueError(
            f"plan: bucket {unwanted[0]} has {counts_K[unwanted[0]]} samples, but no step wants it: "
            "give it a share above zero"
        )
    sizes_S = np.full(steps, batch_size, dtype=np.int64)
    sizes_S[-1] = total - batch_size * (steps - 1)
    return sizes_S


def round_plan(real_SK: NDArray[np.float64], batch_size: int, counts: ArrayLike) -> NDArray[np.int64]:
    """Round a real plan to whole numbers, keeping row sums, column sums and a running deviation below one sample.

    The j-th sample of a bucket may be taken once the cumulative real plan has passed j - 1 and must be taken when it
    reaches j. These are unit jobs with release times and deadlines; a full real schedule exists, so the earliest
    deadline first rule finds a whole one (Horn, 1974).
    """
    counts_K = np.asarray(counts, dtype=np.int64)
    steps, buckets = real_SK.shape
    target_SK = np.cumsum(real_SK, axis=0)
    target_SK[-1] = counts_K
    must_SK = np.minimum(np.floor(target_SK + ROUNDING_NOISE).astype(np.int64), counts_K)
    may_SK = np.minimum(np.ceil(target_SK - ROUNDING_NOISE).astype(np.int64), counts_K)
    deadline_SK = np.empty((steps, buckets), dtype=np.int64)
    for bucket in range(buckets):
        column = must_SK[:, bucket]
        deadline_SK[:, bucket] = np.searchsorted(column, column + 1, side="left")
    total = int(counts_K.sum())
    taken_K = np.zeros(buckets, dtype=np.int64)
    result = np.empty((steps, buckets), dtype=np.int64)
    for step in range(steps):
        room = min(batch_size, total - step * batch_size)
        now_K = np.maximum(taken_K, must_SK[step])
        spare = room - int(now_K.sum() - taken_K.sum())
        if spare > 0:
            open_K = np.flatnonzero(may_SK[step] > now_K)
            urgent = np.argsort(deadline_SK[step, open_K], kind="stable")[:spare]
            now_K[open_K[urgent]] += 1
        assert now_K.sum() - taken_K.sum() == room, "the real plan's rows do not sum to the batch"
        result[step] = now_K - taken_K
        taken_K = now_K
    return result
