"""Hindsight: how much of each position of an order a run's final weights remember.

A position's sample is remembered by so many nats per token as its loss under the final weights is below that of
never-read samples of the same bucket and source. Losses of reference models, if known, correct for the difficulty that
is left inside these cells: linearly, with one slope per model, fitted on never-read samples only (analysis of
covariance). Where a run remembers most is where its preferred data belong (TREC, arXiv 2509.25380).

Shapes: N samples, F features, C cells (source * K + bucket), P parts of the order, K buckets.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curriculum.order.order import Order

Floats = NDArray[np.float64]
PARTS = 10
"""Parts of the order, of equal numbers of steps."""
FEWEST = 5
"""Never-read samples that a cell needs for a baseline."""
AT_ONCE = 1 << 20
NO_CELL = -1
"""Cell of a sample without a score, or from a source that the order does not know."""


@dataclass(frozen=True)
class Samples:
    """Samples with what the comparison needs of each."""

    loss_N: NDArray[np.float32]
    """Under the final weights, nats per token; nan before they are scored."""
    cell_N: NDArray[np.int64]
    feature_NF: NDArray[np.float32]
    """Losses under reference models; F may be 0."""

    def counts(self, cells: int) -> NDArray[np.int64]:
        """Return the number of samples by cell, [C]."""
        return np.bincount(self.cell_N[self.cell_N != NO_CELL], minlength=cells)


@dataclass(frozen=True)
class Baseline:
    """Expected loss of a never-read sample, by cell and features."""

    loss_C: Floats
    """nan for a cell with fewer than FEWEST never-read samples."""
    feature_CF: Floats
    slope_F: Floats
    error_C: Floats
    """Standard error of the cell's mean."""
    explained: float
    """Share of the variance of never-read samples' losses that cells and features explain."""
    samples: int

    def of(self, cell_N: NDArray[np.int64], feature_NF: NDArray[np.float32]) -> Floats:
        """Return the expected loss of samples, [N]; nan where there is no baseline."""
        inside_N = np.maximum(cell_N, 0)
        expected_N: Floats = self.loss_C[inside_N] + (feature_NF - self.feature_CF[inside_N]) @ self.slope_F
        return np.where(cell_N == NO_CELL, np.nan, expected_N)


@dataclass(frozen=True)
class Hindsight:
    """Sums by part of the order and bucket."""

    edges_P: NDArray[np.int64]
    """[P + 1] steps at which the parts begin, and the end of the last one."""
    progress_P: Floats
    """Middle of every part, as a share of the order's samples."""
    buckets: list[str]
    positions_PK: NDArray[np.int64]
    loss_PK: Floats
    """Mean loss; nan without positions."""
    remembered_PK: Floats
    """Baseline minus loss, nats per token; nan without positions."""
    error_PK: Floats
    """Standard error of `remembered_PK`, without that of the baseline, which all parts share."""
    level_error: float
    """Standard error of the mean over all positions that is due to the baseline."""
    without: int
    """Positions without a baseline, which are left out."""
    lost: int
    """Positions of steps that the weights have not learnt from, which are left out."""

    @property
    def mean(self) -> float:
        """Mean over all positions of what is remembered."""
        return float(np.nansum(self.remembered_PK * self.positions_PK) / max(1, int(self.positions_PK.sum())))


def baseline_of(unread: Samples, cells: int) -> Baseline:
    """Fit the expected loss of never-read samples. O(N F^2)."""
    kept_N = unread.cell_N != NO_CELL
    cell_N, y_N = unread.cell_N[kept_N], unread.loss_N[kept_N].astype(np.float64)
    x_NF = unread.feature_NF[kept_N].astype(np.float64)
    count_C = np.bincount(cell_N, minlength=cells)
    enough_C = count_C >= FEWEST
    divisor_C = np.maximum(count_C, 1)
    loss_C = np.bincount(cell_N, y_N, cells) / divisor_C
    columns = [np.bincount(cell_N, x_N, cells) / divisor_C for x_N in x_NF.T]
    feature_CF = np.stack(columns, axis=1) if columns else np.zeros((cells, 0))
    y_N, spread = y_N - loss_C[cell_N], float(((y_N - y_N.mean()) ** 2).sum()) if len(y_N) else 0.0
    x_NF = x_NF - feature_CF[cell_N]
    slope_F = np.linalg.lstsq(x_NF, y_N, rcond=None)[0] if x_NF.size else np.zeros(x_NF.shape[1])
    left_N = y_N - x_NF @ slope_F
    freedom = max(1, len(y_N) - int((count_C > 0).sum()) - len(slope_F))
    deviation = float(np.sqrt((left_N**2).sum() / freedom))
    explained = 1 - float((left_N**2).sum()) / spread if spread > 0 else 0.0
    return Baseline(
        np.where(enough_C, loss_C, np.nan),
        feature_CF,
        slope_F,
        deviation / np.sqrt(divisor_C),
        explained,
        int(count_C[enough_C].sum()),
    )


def hindsight(
    order: Order, samples: Samples, baseline: Baseline, buckets: list[str], lost_steps: Collection[int] = ()
) -> Hindsight:
    """Compare every position of an order with the baseline. `lost_steps`: steps, from 0, that were not learnt from.

    One pass over the positions; 8 bytes per sample. A sample that occurs twice counts at both positions. Errors are
    from each bucket's deviation around the means of its parts.
    """
    expected_N = baseline.of(samples.cell_N, samples.feature_NF)
    remembered_N = expected_N - samples.loss_N
    parts, many = min(PARTS, order.steps), len(buckets)
    edges_P = np.arange(parts + 1, dtype=np.int64) * order.steps // parts
    ends_P = np.array([order.cursor_after(int(edge)) for edge in edges_P])
    away = np.array(sorted(lost_steps), dtype=np.int64)
    sums = np.zeros((4, parts * many))
    used_C = np.zeros(len(baseline.loss_C))
    without = lost = 0
    for start in range(0, len(order), AT_ONCE):
        ids_P = order[start : start + AT_ONCE]
        place_P = np.arange(start, start + len(ids_P))
        learnt_P = ~np.isin(order.steps_of(place_P), away)
        known_P = np.isfinite(remembered_N[ids_P])
        lost += int((~learnt_P).sum())
        without += int((learnt_P & ~known_P).sum())
        counted_P = learnt_P & known_P
        ids_P, place_P = ids_P[counted_P], place_P[counted_P]
        part_P = np.searchsorted(ends_P, place_P, side="right") - 1
        group_P = part_P * many + samples.cell_N[ids_P] % many
        used_C += np.bincount(samples.cell_N[ids_P], minlength=len(used_C))
        value_P = remembered_N[ids_P]
        for row, weight_P in zip(sums, [np.ones(len(ids_P)), samples.loss_N[ids_P], value_P, value_P**2], strict=True):
            row += np.bincount(group_P, np.asarray(weight_P, dtype=np.float64), parts * many)
    count_PK, loss_PK, mean_PK, square_PK = sums.reshape(4, parts, many)
    with np.errstate(invalid="ignore", divide="ignore"):
        loss_PK, mean_PK = loss_PK / count_PK, mean_PK / count_PK
        spread_K = np.nansum(square_PK - count_PK * mean_PK**2, axis=0)
        freedom_K = np.maximum(1, count_PK.sum(axis=0) - (count_PK > 0).sum(axis=0))
        error_PK = np.sqrt(np.maximum(spread_K / freedom_K, 0) / count_PK)
    share_C = used_C / max(1.0, used_C.sum())
    return Hindsight(
        edges_P,
        (ends_P[1:] + ends_P[:-1]) / (2.0 * max(1, len(order))),
        buckets,
        count_PK.astype(np.int64),
        loss_PK,
        mean_PK,
        np.where(count_PK > 0, error_PK, np.nan),
        float(np.sqrt(((share_C * baseline.error_C) ** 2).sum())),
        without,
        lost,
    )
