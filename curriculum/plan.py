"""The plan: a wish (affinity of steps for buckets) turned into whole numbers that use every sample once.

Shapes: S steps, K buckets.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

TOLERANCE = 1e-11
"""Largest error of a column's sum, relative to the sum."""
NEWTON_STEPS = 200
GOOD_ENOUGH = 1e-4
"""Samples that a column may be off after the last step: what a wish at the edge of the possible leaves."""
LONGEST_STEP = 40.0
"""Largest change of a column's logarithm in one Newton step: wishes may span hundreds of orders of magnitude."""
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
    """Return the real-valued plan [S, K] nearest to the affinity in KL divergence: a scaling of rows and columns.

    The scaling is unique (Sinkhorn and Knopp, 1967). It minimises a convex function of the columns' logarithms c,
    sum_t B_t log sum_k A_tk exp(c_k) - sum_k n_k c_k, which Newton's method finds in a few steps where alternating
    scaling would need thousands. Raises ValueError naming the bucket when the affinity is zero where samples must go.
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
    with np.errstate(divide="ignore"):
        log_wish_SK = np.log(wish_SK)
    column_K = np.zeros(len(counts_K))
    value, plan_SK = _dual(log_wish_SK, column_K, sizes_S, counts_K)
    for _ in range(NEWTON_STEPS):
        error_K = plan_SK.sum(axis=0) - counts_K
        if np.all(np.abs(error_K) <= TOLERANCE * counts_K):
            return plan_SK
        step_K = _newton_step(plan_SK, sizes_S, error_K)
        for _halving in range(60):
            moved_value, moved_SK = _dual(log_wish_SK, column_K + step_K, sizes_S, counts_K)
            if moved_value <= value + 1e-4 * float(error_K @ step_K) or np.abs(step_K).max() < 1e-12:
                break
            step_K = step_K / 2
        column_K, value, plan_SK = column_K + step_K, moved_value, moved_SK
    reached_K = plan_SK.sum(axis=0)
    if np.abs(reached_K - counts_K).max() > GOOD_ENOUGH:
        raise _infeasible(counts_K, reached_K)
    return plan_SK


def _dual(
    log_wish_SK: NDArray[np.float64],
    column_K: NDArray[np.float64],
    sizes_S: NDArray[np.int64],
    counts_K: NDArray[np.int64],
) -> tuple[float, NDArray[np.float64]]:
    """Return the convex function at `column_K`, and the plan [S, K] there: its rows hold, its columns may not."""
    score_SK = log_wish_SK + column_K
    largest_S = score_SK.max(axis=1)
    plan_SK = np.exp(score_SK - largest_S[:, None])
    sum_S = plan_SK.sum(axis=1)
    plan_SK *= (sizes_S / sum_S)[:, None]
    return float(sizes_S @ (largest_S + np.log(sum_S)) - counts_K @ column_K), plan_SK


def _newton_step(
    plan_SK: NDArray[np.float64], sizes_S: NDArray[np.int64], error_K: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the Newton step of the columns' logarithms, shortened where the function is nearly flat."""
    hessian_KK = np.diag(plan_SK.sum(axis=0)) - (plan_SK / sizes_S[:, None]).T @ plan_SK
    # The function does not change when all columns are scaled alike: a small ridge makes the system regular.
    ridge = 1e-13 * max(float(np.trace(hessian_KK)), 1e-200)
    step_K = -np.linalg.solve(hessian_KK + ridge * np.eye(len(error_K)), error_K).astype(np.float64)
    step_K -= step_K.mean()
    longest = float(np.abs(step_K).max())
    if longest > LONGEST_STEP:
        step_K *= LONGEST_STEP / longest
    return step_K


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
