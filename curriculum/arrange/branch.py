"""Branches of an order: its head, then a few steps that take constant shares of the buckets from what was not read.

A run of the order can resume with a branch from its checkpoint at that step. Branches of one step with the same seed
share samples: a larger share of a bucket takes those of a smaller one, and more.

Shapes: N samples of the corpus, P positions, T strata, K buckets, C = T * K cells.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curriculum.arrange.cells import Layout
from curriculum.arrange.interleave import OrderWriter, cell_dtype, id_dtype
from curriculum.arrange.plan import round_plan
from curriculum.arrange.quantiles import LEFT_OUT
from curriculum.arrange.replan import STEPS_AT_ONCE, times_of
from curriculum.arrange.twin import composed
from curriculum.artifact.create import create, reusable
from curriculum.order.order import KIND, Order
from curriculum.order.permutation import key_of, mix64
from curriculum.preference.base import ScoreCut
from curriculum.scores.columns import SampleColumns
from curriculum.scores.findings import of_order

BRANCH = "branch"
"""Name of the preference in a branch's manifest; not one that `pdpc arrange` takes."""
SUM = 1e-9
"""Shares whose sum is within this of 1 are whole: the difference is floating-point noise."""


@dataclass(frozen=True)
class Cells:
    """The buckets of the samples that an order arranges."""

    cut: ScoreCut
    """What cuts the buckets."""
    strata: list[str]
    buckets: list[str]
    cell_N: NDArray[np.uint16]
    """Cell of every sample; LEFT_OUT for those that the order does not have."""
    times_N: NDArray[np.uint8]
    """How often the order has each sample."""
    inputs: dict[str, str]
    """Fingerprints of the scores."""

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of each bucket in the order, [K]."""
        there = self.cell_N != LEFT_OUT
        cells = len(self.strata) * len(self.buckets)
        uses_C = np.bincount(self.cell_N[there], weights=self.times_N[there], minlength=cells)
        uses_K: NDArray[np.float64] = uses_C.reshape(len(self.strata), -1).sum(axis=0)
        return np.asarray(uses_K / uses_K.sum())


def cells_of(order: Order, columns: SampleColumns, cut: ScoreCut, workers: int | None = None) -> Cells:
    """Return the cell of every sample of an order, cut as `pdpc arrange` would cut these samples.

    Raises ValueError for scores that are not finite, or too few distinct ones.
    """
    times_N = times_of(order, 0, len(order), columns.samples)
    layout = Layout(
        cut, columns, fold_key=0, times=lambda first, count: times_N[first : first + count], workers=workers
    )
    cell_N = np.full(columns.samples, LEFT_OUT, dtype=np.uint16)
    for chunk in layout.chunks():
        cell_N[chunk.first : chunk.first + len(chunk)] = layout.cells_of(chunk)
    strata = layout.sources if layout.stratified else ["all"]
    return Cells(cut, list(strata), layout.bucket_names, cell_N, times_N, columns.inputs)


@dataclass(frozen=True)
class Unread:
    """The samples that an order has first after some step, in random order within each cell."""

    from_step: int
    ids_P: NDArray[np.int64]
    """Sample ids, cell by cell."""
    count_C: NDArray[np.int64]

    def needed(self, cells: Cells, samples: int, shares_K: NDArray[np.float64]) -> NDArray[np.int64]:
        """Return how many samples of each cell a branch of `samples` takes, [C]: strata as in what was not read.

        Raises ValueError naming the bucket that has too few, and the largest branch that there is room for.
        """
        strata, buckets = len(cells.strata), len(cells.buckets)
        left_T = self.count_C.reshape(strata, buckets).sum(axis=1)
        target_C = (samples * np.outer(left_T / max(1, left_T.sum()), shares_K)).ravel()
        count_C = _rounded(target_C, samples)
        short = np.flatnonzero(count_C > self.count_C)
        if len(short):
            cell = int(short[np.argmin(self.count_C[short] / target_C[short])])
            most = int(samples * self.count_C[cell] / target_C[cell])
            stratum = f" of {cells.strata[cell // buckets]}" if strata > 1 else ""
            raise ValueError(
                f"after step {self.from_step}, {self.count_C[cell]:,} samples of the bucket "
                f"{cells.buckets[cell % buckets]}{stratum} have not been read, but a branch of {samples:,} samples "
                f"with a share of {shares_K[cell % buckets]:g} needs {count_C[cell]:,}: there is room for about "
                f"{most:,} samples"
            )
        return count_C


def unread(order: Order, cells: Cells, from_step: int, seed: int) -> Unread:
    """Return what an order has not read before `from_step`, in an order that `seed` selects."""
    cursor = order.cursor_after(from_step)
    seen_N = times_of(order, 0, cursor, len(cells.cell_N)) > 0
    ids_P = np.flatnonzero((cells.times_N > 0) & ~seen_N)
    cell_P = cells.cell_N[ids_P].astype(np.int64)
    key = np.uint64(key_of(seed, "branch", from_step))
    with np.errstate(over="ignore"):
        place_P = np.lexsort((mix64(ids_P.astype(np.uint64) + key), cell_P))
    count_C = np.bincount(cell_P, minlength=len(cells.strata) * len(cells.buckets)).astype(np.int64)
    return Unread(from_step, ids_P[place_P], count_C)


def write_branch(
    parent: Order, cells: Cells, left: Unread, steps: int, shares_K: NDArray[np.float64], seed: int, output: Path
) -> Order:
    """Write the ORDER of a branch of `steps` steps, or open it if it exists.

    `shares_K` are the buckets' shares of every batch. Raises ValueError if too little is unread.
    """
    assert abs(float(shares_K.sum()) - 1) < SUM, f"the shares {shares_K} do not sum to 1"
    first, batch_size = left.from_step, parent.batch_size
    samples = steps * batch_size
    count_C = left.needed(cells, samples, shares_K)
    preference = {**asdict(cells.cut), "name": BRANCH, "shares": [float(share) for share in shares_K]}
    config = {"preference": preference, "from_step": first, "steps": steps, "batch_size": batch_size, "seed": seed}
    config |= {"slice": parent.manifest.facts["slice"], "nonfinite": "fail"}
    inputs = {**parent.manifest.inputs, **cells.inputs, "parent": parent.fingerprint}
    if reusable(output, KIND, config=config, inputs=inputs):
        return Order.open(output)
    plan_SC = np.tile(batch_size * count_C / samples, (steps, 1))
    counts_SC = round_plan(plan_SC, batch_size, count_C)
    starts_C = np.cumsum(left.count_C) - left.count_C
    chosen = [left.ids_P[start : start + count] for start, count in zip(starts_C, count_C, strict=True)]
    positions = (
        np.concatenate(chosen).astype(id_dtype(len(cells.cell_N))),
        np.repeat(np.arange(len(count_C)), count_C).astype(cell_dtype(len(count_C))),
    )
    ids_P, cell_P = composed(positions, counts_SC, key_of(seed, "branch step", first))
    before, cursor = len(parent.bucket_of_cell), parent.cursor_after(first)
    with (
        create(output, KIND, config=config, inputs=inputs) as draft,
        OrderWriter(draft, len(cells.cell_N), before + len(count_C), hashed=True) as writer,
    ):
        for start in range(0, first, STEPS_AT_ONCE):
            rows = slice(start, min(start + STEPS_AT_ONCE, first))
            head = (parent.cell_plan[rows], parent.cell_counts[rows])
            writer.steps(*(np.pad(table, ((0, 0), (0, len(count_C)))) for table in head))
        writer.steps(*(np.pad(table, ((0, 0), (before, 0))) for table in (plan_SC, counts_SC)))
        for start in range(0, cursor, STEPS_AT_ONCE):
            part = slice(start, min(start + STEPS_AT_ONCE, cursor))
            writer.positions(parent[part], parent.cell[part])
        writer.positions(ids_P, cell_P.astype(np.int64) + before)
        different = np.count_nonzero(times_of(parent, 0, cursor, len(cells.cell_N))) + samples
        draft.facts.update(writer.finish(), **_facts(parent, cells, first, steps, count_C, int(different)))
        draft.facts.update(of_order(parent.manifest.facts).as_fact())
    return Order.open(output)


def is_branch(order: Order) -> bool:
    """Return whether an order is a branch: it ends before it has read what its parent had left."""
    return bool((order.manifest.config.get("preference") or {}).get("name") == BRANCH)


def _facts(
    parent: Order, cells: Cells, first: int, steps: int, count_C: NDArray[np.int64], different: int
) -> dict[str, object]:
    """Return a branch's facts: those of a replanned order that ends early, with one stage."""
    old = parent.manifest.facts
    cursor, branch = parent.cursor_after(first), int(count_C.sum())
    strata, buckets = len(cells.strata), len(cells.buckets)
    samples_K = count_C.reshape(strata, buckets).sum(axis=0)
    stratum_C, bucket_C = np.divmod(np.arange(strata * buckets), buckets)
    return {
        **{key: old[key] for key in ("slice", "seq_len", "batch_size")},
        "samples": cursor + branch,
        "different_samples": different,
        "left_out": len(cells.cell_N) - different,
        "repeated": cursor + branch - different,
        "steps": first + steps,
        "stage_ends": [first + steps],
        "buckets": [
            *old["buckets"],
            *(
                {"name": f"{name}@{first}", "low": None, "high": None, "samples": int(count), "uses": 1}
                for name, count in zip(cells.buckets, samples_K, strict=True)
            ),
        ],
        "strata": [*old["strata"], *cells.strata],
        "cells": {
            "bucket": [*old["cells"]["bucket"], *(int(bucket) + len(parent.buckets) for bucket in bucket_C)],
            "stratum": [*old["cells"]["stratum"], *(int(stratum) + len(parent.strata) for stratum in stratum_C)],
        },
        "edges": {},
        "spread_evenly": [],
        "ancestors": [*old.get("ancestors", []), parent.fingerprint],
        "replanned_at": {"step": first, "cursor": cursor},
        "audit": {"read": cursor, "left": branch, "left_before": len(parent) - cursor},
    }


def _rounded(target_C: NDArray[np.float64], total: int) -> NDArray[np.int64]:
    """Round to whole numbers that sum to `total`: the largest remainders are rounded up."""
    count_C = np.floor(target_C + SUM).astype(np.int64)
    rest_C = target_C - count_C
    count_C[np.argsort(-rest_C, kind="stable")[: total - int(count_C.sum())]] += 1
    return count_C
