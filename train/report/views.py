"""What an arm trained on and when: its plan, the shares of high-PD samples and of sources, PD by source."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from curriculum.order.permutation import mix64
from train.report.records import Run, finite

if TYPE_CHECKING:
    from curriculum.order.order import Order

BINS = 60
"""Maximum number of bins in a figure over progress."""
PART_SAMPLES = 200
"""Minimum samples per bin, so that shares are not just noise: a short order has fewer bins."""
LEAST_BINS = 12
HISTOGRAM_BINS = 48
CLIP = 0.005
"""Share of samples beyond each end of the histogram range; they are counted in the first and last bin."""


@dataclass(frozen=True)
class Plan:
    """Bucket shares over progress."""

    buckets: list[str]
    progress: NDArray[np.float64]
    """[n], 0 to 1."""
    planned: NDArray[np.float64]
    """[n, buckets], rows sum to 1."""
    realised: NDArray[np.float64]
    """[n, buckets], rows sum to 1."""
    origin: str
    """`order` (every step) or `metrics` (logged steps only)."""


@dataclass(frozen=True)
class Exposure:
    """The composition of an order over progress."""

    progress: NDArray[np.float64]
    high: NDArray[np.float64] | None
    """[n] share of samples above the median PD of the corpus; None without scores."""
    sources: NDArray[np.float64] | None
    """[n, sources] share of every source; None without tokens."""
    content: tuple[int, int]
    """Number of samples and the sum of their hashes: equal for two orders of the same samples."""


@dataclass(frozen=True)
class Preferences:
    """PD by source."""

    sources: list[str]
    edges: NDArray[np.float64]
    """[bins + 1]"""
    histogram: NDArray[np.float64]
    """[sources, bins] share of the source's samples in each bin."""
    samples: list[int]
    medians: list[float]
    above: list[float]
    """Share of each source's samples above the median of the corpus."""
    median: float
    mean: float
    deviation: float
    negative: float
    """Share of samples on which the weak model has a lower loss than the strong one."""
    explained: float
    """Share of the PD variance that is between sources (eta squared)."""


def plan_of_order(order: Order) -> Plan:
    """Return the planned and realised bucket shares of an order in at most BINS bins. O(steps * buckets)."""
    edges = _edges(order.steps)
    planned = np.add.reduceat(order.plan[:], edges[:-1], axis=0)
    realised = np.add.reduceat(order.counts[:], edges[:-1], axis=0)
    names = [bucket.name for bucket in order.buckets]
    return Plan(names, _middles(edges), _shares(planned), _shares(realised), "order")


def plan_of_metrics(run: Run) -> Plan | None:
    """Return the plan reconstructed from the train records; None if they do not contain it."""
    prefix = "curriculum/realised/"
    keys = {key for record in run.train for key in record if key.startswith(prefix)}
    names = sorted((key.removeprefix(prefix) for key in keys), key=lambda name: (_place(name), name))
    rows: list[list[float]] = []
    for record in run.train:
        values = [finite(record, "curriculum/progress")]
        values += [finite(record, f"curriculum/{kind}/{name}") for kind in ("planned", "realised") for name in names]
        if all(value is not None for value in values):
            rows.append([float(value) for value in values if value is not None])
    if not names or len(rows) < 2:
        return None
    table = np.asarray(rows)
    edges = _edges(len(table))
    table = np.add.reduceat(table, edges[:-1], axis=0) / np.diff(edges)[:, None]
    planned, realised = table[:, 1 : 1 + len(names)], table[:, 1 + len(names) :]
    return Plan(names, table[:, 0], _shares(planned), _shares(realised), "metrics")


def exposure_of(
    order: Order, high_N: NDArray[np.bool_] | None, source_N: NDArray[np.int64] | None, sources: int
) -> Exposure:
    """Read an order once and compute its composition in at most BINS bins; [N] arrays are by sample id. O(samples)."""
    edges = _edges(len(order), max(LEAST_BINS, len(order) // PART_SAMPLES))
    content = 0
    high = np.zeros(len(edges) - 1)
    mix = np.zeros((len(edges) - 1, sources))
    for row, (start, stop) in enumerate(pairwise(edges)):
        ids = order[int(start) : int(stop)]
        with np.errstate(over="ignore"):
            content = (content + int(mix64(ids.astype(np.uint64)).sum(dtype=np.uint64))) % 2**64
        if high_N is not None:
            high[row] = high_N[ids].mean()
        if source_N is not None:
            mix[row] = np.bincount(source_N[ids], minlength=sources) / len(ids)
    shares = (None if high_N is None else high, None if source_N is None else mix)
    return Exposure(_middles(edges), *shares, (len(order), content))


def preferences_of(pd_N: NDArray[np.float32], source_N: NDArray[np.int64], sources: list[str]) -> Preferences:
    """Return PD by source: histograms over one range, medians, shares above the corpus median. O(N log N)."""
    values = pd_N.astype(np.float64)
    median = float(np.median(values))
    low, high = (float(edge) for edge in np.quantile(values, [CLIP, 1 - CLIP]))
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, HISTOGRAM_BINS + 1)
    histogram = np.zeros((len(sources), HISTOGRAM_BINS))
    samples, medians, above, between = [], [], [], 0.0
    for index in range(len(sources)):
        part = values[source_N == index]
        samples.append(len(part))
        medians.append(float(np.median(part)) if len(part) else float("nan"))
        above.append(float((part > median).mean()) if len(part) else float("nan"))
        if len(part):
            histogram[index] = np.histogram(np.clip(part, low, high), edges)[0] / len(part)
            between += len(part) * (part.mean() - values.mean()) ** 2
    total = float(((values - values.mean()) ** 2).sum())
    explained = between / total if total > 0 else 0.0
    negative = float((values < 0).mean())
    return Preferences(
        sources,
        edges,
        histogram,
        samples,
        medians,
        above,
        median,
        float(values.mean()),
        float(values.std()),
        negative,
        explained,
    )


def _edges(count: int, most: int = BINS) -> NDArray[np.int64]:
    """Return the edges of at most min(BINS, `most`) nearly equal parts of `count` items."""
    parts = min(BINS, most, count)
    return np.arange(parts + 1, dtype=np.int64) * count // parts


def _middles(edges: NDArray[np.int64]) -> NDArray[np.float64]:
    return (edges[:-1] + edges[1:]) / (2.0 * edges[-1])


def _shares(table: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = table / np.maximum(table.sum(axis=1, keepdims=True), 1e-12)
    return result


def _place(name: str) -> int:
    """Return the sort key of a bucket name (low, high or q1, q2, ...): by score, not alphabetical."""
    if name in ("low", "high"):
        return ("low", "high").index(name)
    return int(name[1:]) if name[:1] == "q" and name[1:].isdigit() else 1 << 30
