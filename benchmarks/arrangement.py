"""The one place that knows how PDPC arranges: the benchmarks call these two functions and nothing beside them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.score_file import read_scores
from curriculum.arrange import compose
from curriculum.artifact import create
from curriculum.buckets import Bucket, cut, quantile_edges
from curriculum.order import KIND, write_order
from curriculum.plan import real_plan, round_plan
from curriculum.preference import PREFERENCES

Chunks = Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]


def arrange_scores(*, scores: Path, preference: str, batch_size: int, seed: int, output: Path) -> None:
    """Write the ORDER of the scores of a Parquet file (`score` float32, `sample` int64 or none) into `output`."""
    score_N = np.concatenate(list(read_scores(scores)))
    planned_SK, counts_SK, buckets, chunks = _arranged(score_N, preference, batch_size, seed)
    with create(output, KIND, config={"preference": preference, "seed": seed}, inputs={}) as draft:
        facts = write_order(
            draft.path,
            chunks,
            samples=len(score_N),
            largest_id=len(score_N) - 1,
            buckets=len(buckets),
            plan=planned_SK,
            counts=counts_SK,
        )
        described = [asdict(bucket) for bucket in buckets]
        draft.facts.update(facts, batch_size=batch_size, stage_ends=[len(counts_SK)], buckets=described)


def arrange_in_memory(score_N: NDArray[np.float32], preference: str, batch_size: int, seed: int) -> NDArray[np.uint32]:
    """Return the sample ids of scores in training order, [N], without touching the disk."""
    order_N = np.empty(len(score_N), dtype=np.uint32)
    first = 0
    for ids, _ in _arranged(score_N, preference, batch_size, seed)[3]:
        order_N[first : first + len(ids)] = ids
        first += len(ids)
    return order_N


def _arranged(
    score_N: NDArray[np.float32], preference: str, batch_size: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.int64], list[Bucket], Chunks]:
    wish = PREFERENCES[preference]()
    ids_N = np.arange(len(score_N), dtype=np.int64)
    bucket_N, buckets = np.zeros(len(score_N), dtype=np.int64), [Bucket("all", None, None, len(score_N))]
    if wish.score:
        bucket_N, buckets = cut(score_N, quantile_edges(score_N, np.ones(len(score_N), dtype=np.int64), wish.buckets))
    counts_K = np.array([bucket.samples for bucket in buckets], dtype=np.int64)
    steps = -(-len(score_N) // batch_size)
    planned_SK = real_plan(wish.affinity((np.arange(steps) + 0.5) / steps), batch_size, counts_K)
    counts_SK = round_plan(planned_SK, batch_size, counts_K)
    return planned_SK, counts_SK, buckets, compose(ids_N, bucket_N, counts_SK, seed)
