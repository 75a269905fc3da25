"""An order divided by progress: planned and realised share of every bucket, mean score, mix of sources.

Shapes: P parts, S steps, C cells, K buckets, T sources, N samples.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curriculum.order.order import Order
from curriculum.scores.columns import SampleColumns
from curriculum.scores.expression import Expression

MOST_PARTS, LEAST_PARTS = 60, 20
PART_SAMPLES = 200
"""Samples that a part should hold, so that its shares are not just noise: a short order has fewer parts."""
AT_ONCE = 1 << 20
NO_SOURCE = ("all", "unscored")
"""Strata that are not sources."""


@dataclass(frozen=True)
class Overview:
    """Sums over the steps of each part; the properties turn them into shares and means."""

    edges_P: NDArray[np.int64]
    """[P + 1] steps at which the parts begin, and the end of the last one."""
    buckets: list[str]
    planned_PK: NDArray[np.float64]
    """Samples in the real-valued plan."""
    realised_PK: NDArray[np.float64]
    """Samples in the order."""
    score: str | None
    """Expression whose mean is known; None if no scores were given."""
    score_sum_P: NDArray[np.float64]
    scored_P: NDArray[np.int64]
    """Positions with a finite score."""
    sources: list[str]
    """Empty if unknown."""
    sources_PT: NDArray[np.float64]

    @property
    def progress_P(self) -> NDArray[np.float64]:
        """Middle of every part, in (0, 1)."""
        middle_P: NDArray[np.float64] = (self.edges_P[:-1] + self.edges_P[1:]) / (2.0 * self.edges_P[-1])
        return middle_P

    @property
    def mean_P(self) -> NDArray[np.float64]:
        """Mean score of every part; NaN where unknown."""
        known_P = self.scored_P > 0
        return np.where(known_P, self.score_sum_P / np.maximum(self.scored_P, 1), np.nan)

    def merged(self, parts: int) -> Overview:
        """Return the same overview in fewer parts."""
        count = len(self.edges_P) - 1
        parts = min(parts, count)
        at = np.arange(parts + 1) * count // parts
        starts = at[:-1]
        return Overview(
            self.edges_P[at],
            self.buckets,
            np.add.reduceat(self.planned_PK, starts, axis=0),
            np.add.reduceat(self.realised_PK, starts, axis=0),
            self.score,
            np.add.reduceat(self.score_sum_P, starts),
            np.add.reduceat(self.scored_P, starts),
            self.sources,
            np.add.reduceat(self.sources_PT, starts, axis=0),
        )


def shares(table: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rows of a table divided by their sums."""
    result: NDArray[np.float64] = table / np.maximum(table.sum(axis=1, keepdims=True), 1e-12)
    return result


def overview(order: Order, columns: SampleColumns | None = None) -> Overview:
    """Read the tables of an order and, with `columns`, its positions too. O(steps * cells + positions).

    With scores: four bytes per sample.
    """
    tens = len(order) // PART_SAMPLES // 10 * 10
    parts = min(max(LEAST_PARTS, min(MOST_PARTS, tens)), order.steps)
    edges_P = np.arange(parts + 1, dtype=np.int64) * order.steps // parts
    planned_PC = np.zeros((parts, len(order.bucket_of_cell)))
    realised_PC = np.zeros_like(planned_PC)
    rows = max(1, AT_ONCE // planned_PC.shape[1])
    for part in range(parts):
        for first in range(edges_P[part], edges_P[part + 1], rows):
            steps = slice(first, min(first + rows, int(edges_P[part + 1])))
            planned_PC[part] += order.cell_plan[steps].sum(axis=0, dtype=np.float64)
            realised_PC[part] += order.cell_counts[steps].sum(axis=0)
    names = [bucket.name for bucket in order.buckets]
    planned_PK = _summed(planned_PC, order.bucket_of_cell, len(names))
    realised_PK = _summed(realised_PC, order.bucket_of_cell, len(names))
    score = mean_score_of(order, columns) if columns is not None else None
    value_N = score_of_samples(columns, score) if columns is not None and score is not None else None
    sources, sources_PT = _strata(order, realised_PC)
    if columns is not None and columns.tokens is not None:
        sources, sources_PT = columns.tokens.sources, np.zeros((parts, len(columns.tokens.sources)))
    sum_P, scored_P = np.zeros(parts), np.zeros(parts, dtype=np.int64)
    for part in range(parts if columns is not None else 0):
        end = order.cursor_after(int(edges_P[part + 1]))
        for start in range(order.cursor_after(int(edges_P[part])), end, AT_ONCE):
            ids = order[start : min(start + AT_ONCE, end)]
            if columns is not None and columns.tokens is not None:
                sources_PT[part] += np.bincount(columns.tokens.source_of(ids), minlength=len(sources))
            if value_N is not None:
                value = value_N[ids]
                finite = np.isfinite(value)
                sum_P[part] += value[finite].sum(dtype=np.float64)
                scored_P[part] += np.count_nonzero(finite)
    return Overview(edges_P, names, planned_PK, realised_PK, score, sum_P, scored_P, sources, sources_PT)


def mean_score_of(order: Order, columns: SampleColumns) -> str | None:
    """Return the score whose mean describes the order best: the one it cuts by, else PD, else the first available."""
    asked = order.manifest.config.get("preference", {}).get("score")
    names = [name for name in columns.names if name not in ("length", "tokens")]
    if not names:
        return None
    candidates = [asked, "pd", *names] if asked else ["pd", *names]
    return next((text for text in candidates if set(Expression(text).names) <= set(columns.names)), None)


def score_of_samples(columns: SampleColumns, score: str) -> NDArray[np.float32]:
    """Return a score of every sample, float32 [N]."""
    value_N = np.empty(columns.samples, dtype=np.float32)
    for chunk in columns.chunks([Expression(score)]):
        value_N[chunk.first : chunk.first + len(chunk)] = chunk.scores[score]
    return value_N


def _strata(order: Order, table_PC: NDArray[np.float64]) -> tuple[list[str], NDArray[np.float64]]:
    """Return the sources and their samples, derived from the strata; empty if a stratum is not a source."""
    if any(name in NO_SOURCE for name in order.strata):
        return [], np.zeros((len(table_PC), 0))
    sources = list(dict.fromkeys(order.strata))
    place_C = np.array([sources.index(order.strata[stratum]) for stratum in order.stratum_of_cell])
    return sources, _summed(table_PC, place_C, len(sources))


def _summed(table_PC: NDArray[np.float64], group_C: NDArray[np.int64], groups: int) -> NDArray[np.float64]:
    """Sum the columns of a table by group."""
    result = np.zeros((len(table_PC), groups))
    np.add.at(result.T, group_C, table_PC.T)
    return result
