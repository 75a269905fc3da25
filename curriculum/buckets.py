"""Buckets: samples grouped by score at quantiles of the corpus by tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Bucket:
    """One group of samples: scores in (low, high]; None is open."""

    name: str
    low: float | None
    high: float | None
    samples: int


def quantile_edges(score_N: NDArray[np.float32], tokens_N: NDArray[np.int64], buckets: int) -> NDArray[np.float32]:
    """Return the buckets - 1 scores that cut the samples into parts of equal tokens, [buckets - 1], rising.

    Raises ValueError when so many samples share a score that a bucket would be empty. O(N log N).
    """
    order = np.argsort(score_N, kind="stable")
    cumulative = np.cumsum(tokens_N[order])
    cuts = cumulative[-1] * np.arange(1, buckets) / buckets
    edges: NDArray[np.float32] = score_N[order][np.searchsorted(cumulative, cuts, side="left")]
    if len(np.unique(edges)) < len(edges) or (len(edges) and edges[-1] >= score_N.max()):
        raise ValueError(
            f"buckets: {len(score_N)} samples have too few distinct scores for {buckets} buckets: "
            "use fewer buckets, or check that the scores are not all alike"
        )
    return edges


def cut(score_N: NDArray[np.float32], edges: NDArray[np.float32]) -> tuple[NDArray[np.int64], list[Bucket]]:
    """Return each sample's bucket [N] and the buckets' description; a score equal to an edge goes below it."""
    bucket_N = np.searchsorted(edges, score_N, side="left").astype(np.int64)
    counts = np.bincount(bucket_N, minlength=len(edges) + 1)
    bounds = [None, *(float(edge) for edge in edges), None]
    names = ["low", "high"] if len(counts) == 2 else [f"q{index + 1}" for index in range(len(counts))]
    described = [
        Bucket(name, low, high, int(count))
        for name, low, high, count in zip(names, bounds[:-1], bounds[1:], counts, strict=True)
    ]
    return bucket_N, described
