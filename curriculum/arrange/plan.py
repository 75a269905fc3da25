"""The plan: turn a wish (affinity of steps for buckets) into integers that use every sample exactly once.

Shapes: S steps, K buckets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

TOLERANCE = 1e-11
"""Largest relative error of a column sum."""
NEWTON_STEPS = 200
GOOD_ENOUGH = 1e-4
"""Samples by which a column may be off after the last step: wishes on the edge of feasibility end there."""
SMALLEST_STEP = 1e-13
"""A Newton step this small changes nothing in floating point."""
CHUNK_ENTRIES = 1 << 18
"""Plan entries processed at once: what fits a core's cache."""
LONGEST_STEP = 40.0
"""Largest change of a column's logarithm per Newton step: wishes may span hundreds of orders of magnitude."""
ROUNDING_NOISE = 1e-7
"""Cumulative targets this close to an integer count as that integer: the difference is floating-point noise."""


def plan(affinity: ArrayLike, batch_size: int, counts: ArrayLike) -> NDArray[np.int64]:
    """Return the table [S, K] of samples each step takes from each bucket.

    `affinity` float [S, K] says how much each bucket is wanted at each step (only ratios within a row matter);
    `counts` int [K] are the samples per bucket. Rows of the result sum to `batch_size` (the last one to the
    remainder), columns to `counts`, and a bucket's running count is always less than one sample off the real-valued
    plan. Raises ValueError for an infeasible wish or inconsistent sizes. O(S * K) per scaling round.
    """
    counts_K = np.asarray(counts, dtype=np.int64)
    return round_plan(real_plan(affinity, batch_size, counts_K), batch_size, counts_K).astype(np.int64)


def real_plan(affinity: ArrayLike, batch_size: int, counts: ArrayLike) -> NDArray[np.float64]:
    """Return the real-valued plan [S, K] nearest to the affinity in KL divergence: a scaling of rows and columns.

    Raises ValueError naming the bucket when the affinity is zero where samples must go.
    """
    wish_SK = np.array(affinity, dtype=np.float64)
    counts_K = np.asarray(counts, dtype=np.int64)
    sizes_S = _checked_sizes(wish_SK, batch_size, counts_K)
    with np.errstate(divide="ignore"):
        return scaled(np.log(wish_SK), sizes_S.astype(np.float64), counts_K)


def step_sizes(total: int, batch_size: int) -> NDArray[np.int64]:
    """Return the samples in each step, [S]: `batch_size`, and the remainder in the last one."""
    steps = -(-total // batch_size)
    sizes_S = np.full(steps, batch_size, dtype=np.int64)
    sizes_S[-1] = total - batch_size * (steps - 1)
    return sizes_S


def scaled(
    log_wish_SK: NDArray[np.float64],
    sizes_S: NDArray[np.float64],
    counts_K: NDArray[np.int64],
    names: Sequence[str] | None = None,
) -> NDArray[np.float64]:
    """Return the real-valued plan [S, K] whose rows sum to `sizes_S` and columns to `counts_K`, in place of the wish.

    The scaling is unique (Sinkhorn and Knopp, 1967). It minimises a convex function of the columns' logarithms c,
    sum_t B_t log sum_k A_tk exp(c_k) - sum_k n_k c_k: Newton's method takes a few steps where alternating scaling
    would need thousands. `log_wish_SK` is the logarithm of the affinity; `names` are the bucket names for messages.
    Raises ValueError naming bucket and step when the affinity is zero where samples must go.
    """
    names = names or [str(bucket) for bucket in range(len(counts_K))]
    filled_K = counts_K > 0
    log_wish_SK[:, ~filled_K] = -np.inf
    _check_wanted(log_wish_SK, counts_K, names)
    column_K = np.where(filled_K, 0.0, -np.inf)
    for doublings in range(_doublings(log_wish_SK), -1, -1):
        column_K, sums_K = _columns(log_wish_SK, 0.5**doublings, 2 * column_K, sizes_S, counts_K)
    if np.abs(sums_K - counts_K).max() > max(GOOD_ENOUGH, TOLERANCE * float(counts_K.max())):
        raise _infeasible(log_wish_SK, counts_K, sums_K, names)
    for rows in _row_chunks(log_wish_SK):
        log_wish_SK[rows] = _rows(log_wish_SK[rows], column_K, sizes_S[rows])[0]
    return log_wish_SK


def _doublings(log_wish_SK: NDArray[np.float64]) -> int:
    """Return how often to halve a wish until its rows span at most LONGEST_STEP.

    A wish that spans thousands makes the convex function almost piecewise linear, where Newton's method is slow: a
    softened wish is solved first, then one twice as sharp starting from there, and so on up to the wish itself.
    """
    spans = [
        float((chunk_SK.max(axis=1) - np.where(np.isneginf(chunk_SK), np.inf, chunk_SK).min(axis=1)).max())
        for chunk_SK in (log_wish_SK[rows] for rows in _row_chunks(log_wish_SK))
    ]
    return max(0, int(np.ceil(np.log2(max([*spans, 1.0]) / LONGEST_STEP))))


def _columns(
    log_wish_SK: NDArray[np.float64],
    softness: float,
    column_K: NDArray[np.float64],
    sizes_S: NDArray[np.float64],
    counts_K: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the columns' logarithms [K] for a wish to the power of `softness`, from `column_K` on, and their sums."""
    filled_K = counts_K > 0
    value, sums_K, hessian_KK = _dual(log_wish_SK, softness, column_K, sizes_S, counts_K)
    for _ in range(NEWTON_STEPS):
        error_K = sums_K - counts_K
        if np.all(np.abs(error_K) <= TOLERANCE * counts_K):
            break
        step_K = _newton_step(hessian_KK, error_K, filled_K)
        for _halving in range(60):
            moved, moved_sums_K, moved_KK = _dual(log_wish_SK, softness, column_K + step_K, sizes_S, counts_K)
            if moved <= value + 1e-4 * float(error_K @ step_K) or np.abs(step_K).max() < 1e-12:
                break
            step_K = step_K / 2
        column_K, value, sums_K, hessian_KK = column_K + step_K, moved, moved_sums_K, moved_KK
        if np.abs(step_K).max() < SMALLEST_STEP:
            break
    return column_K, sums_K


def _row_chunks(table_SK: NDArray[np.float64]) -> Iterator[slice]:
    rows = max(1, CHUNK_ENTRIES // table_SK.shape[1])
    return (slice(start, start + rows) for start in range(0, len(table_SK), rows))


def _rows(
    log_wish_SK: NDArray[np.float64], column_K: NDArray[np.float64], sizes_S: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the plan of some rows, with columns scaled by exp(column_K), and the log of each row's sum."""
    plan_SK = log_wish_SK + column_K
    largest_S = plan_SK.max(axis=1)
    plan_SK -= largest_S[:, None]
    np.exp(plan_SK, out=plan_SK)
    sum_S = plan_SK.sum(axis=1)
    plan_SK *= (sizes_S / sum_S)[:, None]
    return plan_SK, largest_S + np.log(sum_S)


def _dual(
    log_wish_SK: NDArray[np.float64],
    softness: float,
    column_K: NDArray[np.float64],
    sizes_S: NDArray[np.float64],
    counts_K: NDArray[np.int64],
) -> tuple[float, NDArray[np.float64], NDArray[np.float64]]:
    """Return the convex function at `column_K`, the plan's column sums there [K], and the Hessian [K, K]."""
    filled_K = counts_K > 0
    value = -float(counts_K[filled_K] @ column_K[filled_K])
    sums_K = np.zeros(len(counts_K))
    hessian_KK = np.zeros((len(counts_K), len(counts_K)))
    for rows in _row_chunks(log_wish_SK):
        plan_SK, log_sum_S = _rows(log_wish_SK[rows] * softness, column_K, sizes_S[rows])
        value += float(sizes_S[rows] @ log_sum_S)
        sums_K += plan_SK.sum(axis=0)
        hessian_KK -= (plan_SK / sizes_S[rows, None]).T @ plan_SK
    return value, sums_K, hessian_KK + np.diag(sums_K)


def _newton_step(
    hessian_KK: NDArray[np.float64], error_K: NDArray[np.float64], filled_K: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the Newton step of the columns' logarithms, shortened where the function is nearly flat."""
    # Scaling all columns by one factor does not change the function: a small ridge makes the system nonsingular.
    ridge = 1e-13 * max(float(np.trace(hessian_KK)), 1e-200)
    step_K = -np.linalg.solve(hessian_KK + ridge * np.eye(len(error_K)), error_K).astype(np.float64)
    step_K = np.where(filled_K, step_K - step_K[filled_K].mean(), 0.0)
    longest = float(np.abs(step_K).max())
    if longest > LONGEST_STEP:
        step_K *= LONGEST_STEP / longest
    return step_K


def _check_wanted(log_wish_SK: NDArray[np.float64], counts_K: NDArray[np.int64], names: Sequence[str]) -> None:
    """Raise ValueError for a step that wants nothing or a bucket that no step wants."""
    empty_steps = np.flatnonzero(np.isneginf(log_wish_SK.max(axis=1)))
    if len(empty_steps):
        raise ValueError(
            f"plan: step {empty_steps[0]} of {len(log_wish_SK)} wants no bucket that has samples: "
            "give one a share above zero"
        )
    unwanted = np.flatnonzero((counts_K > 0) & np.isneginf(log_wish_SK.max(axis=0)))
    if len(unwanted):
        raise ValueError(
            f"plan: bucket {names[unwanted[0]]} has {counts_K[unwanted[0]]} samples, but no step wants it: "
            "give it a share above zero"
        )


def _infeasible(
    log_wish_SK: NDArray[np.float64], counts_K: NDArray[np.int64], reached_K: NDArray[np.float64], names: Sequence[str]
) -> ValueError:
    short = int(np.argmax(counts_K - reached_K))
    wanting = np.flatnonzero(np.isfinite(log_wish_SK[:, short]))
    return ValueError(
        f"plan: the preference cannot be met: bucket {names[short]} has {counts_K[short]} samples, but the "
        f"{len(wanting)} steps that want it (from step {wanting[0]} to {wanting[-1]} of {len(log_wish_SK)}) "
        f"can take at most {reached_K[short]:.6g}: give it a share above zero at more steps"
    )


def _checked_sizes(wish_SK: NDArray[np.float64], batch_size: int, counts_K: NDArray[np.int64]) -> NDArray[np.int64]:
    """Check a wish against batch size and counts; return the samples in each step, [S]."""
    if wish_SK.ndim != 2 or wish_SK.shape[1] != len(counts_K) or len(counts_K) == 0:
        raise ValueError(
            f"plan: affinity has shape {wish_SK.shape}, but there are {len(counts_K)} buckets: give [steps, buckets]"
        )
    if batch_size < 1:
        raise ValueError(f"plan: batch_size={batch_size} must be at least 1")
    if (counts_K < 0).any():
        raise ValueError(f"plan: counts={counts_K.tolist()} contain a negative number")
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
    return step_sizes(total, batch_size)


def round_plan(real_SK: NDArray[np.float64], batch_size: int, counts: ArrayLike) -> NDArray[np.int32]:
    """Round a real-valued plan to integers, keeping row sums, column sums and a running deviation below one sample.

    The j-th sample of a bucket may be taken once the cumulative real-valued plan has passed j - 1 and must be taken
    when it reaches j. These are unit jobs with release times and deadlines; a feasible fractional schedule exists, so
    the earliest-deadline-first rule finds an integer one (Horn, 1974).
    """
    from curriculum.arrange.kernels import round_rows

    counts_K = np.asarray(counts, dtype=np.int64)
    target_SK = np.cumsum(real_SK, axis=0)
    target_SK[-1] = counts_K
    result_SK = np.empty(real_SK.shape, dtype=np.int32)
    failed = round_rows(target_SK, counts_K, step_sizes(int(counts_K.sum()), batch_size), ROUNDING_NOISE, result_SK)
    assert failed < 0, f"the real plan's rows do not sum to the batch at step {failed}"
    return result_SK
