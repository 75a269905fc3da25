"""An arrangement: samples dealt, counted and planned by cell, ready to be written in training order.

Shapes: N samples of a chunk, S steps, C cells, U uses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from curriculum.arrange.cells import Layout
from curriculum.arrange.deal import MOST_USES, Deal, Dealt, Ids, item_dtype
from curriculum.arrange.interleave import NO_TURNS, composed
from curriculum.arrange.plan import round_plan, scaled, step_sizes
from curriculum.arrange.quantiles import Keys, keys_of
from curriculum.artifact.spool import Spool
from curriculum.order.order import UNSCORED
from curriculum.order.permutation import key_of, mix64
from curriculum.scores.columns import Chunk
from curriculum.work.threads import Sums, mapped

MOST_SORTED = 1 << 32
NO_TIMES, NO_KEYS = np.zeros(0, dtype=np.uint8), np.zeros(0, dtype=np.uint32)


class Arrangement:
    """Deals, counts and plans on entering; `pieces` yields the order. Memory does not grow with the number of samples.

    `plan_SC` is the real-valued plan, float64, and `counts_SC` the integer one, int32; `total` counts positions.
    """

    def __init__(self, layout: Layout, batch_size: int, seed: int, scratch: Path | None) -> None:
        """`scratch` is a folder for what does not fit in memory; None: keep everything in memory."""
        if layout.preference.sorts and layout.columns.samples > MOST_SORTED:
            raise ValueError(
                f"preference={layout.preference.name} can sort at most {MOST_SORTED} samples, but there are "
                f"{layout.columns.samples}: use preference=tilt with a high steepness"
            )
        self.layout = layout
        self.uses_C = _uses(layout)
        self._batch_size, self._seed, self._workers = batch_size, seed, layout.workers
        self._stack = ExitStack()
        self._scratch = scratch

    def __enter__(self) -> Self:
        try:
            self._deal = self._dealt()
            self.counts_CU = self._deal.counts_CU
            self.total = int(self.counts_CU.sum())
            if self.total == 0:
                raise ValueError("preference.uses leaves out every sample: use at least one bucket")
            self.plan_SC = self._plan()
            self.counts_SC = round_plan(self.plan_SC, self._batch_size, self.counts_CU.sum(axis=1))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def pieces(self, into: Ids | None = None) -> Iterator[tuple[Ids, npt.NDArray[Any]]]:
        """Yield (sample ids, cells) in training order, in pieces whose size does not affect the result.

        If given, `into` [total] receives all ids, and the pieces are views of it.
        """
        key = key_of(self._seed, "step")
        return composed(self._deal, self.counts_SC, key, self._workers, turn_C=self._turns(), into=into)

    @property
    def whole(self) -> bool:
        """Is every sample used exactly once?"""
        return int(self.counts_CU[:, 0].sum()) == self.layout.columns.samples == self.total

    def facts(self) -> dict[str, Any]:
        """Return the manifest's facts about samples, buckets and cells."""
        layout = self.layout
        used = int(self.counts_CU[:, 0].sum())
        scored = [(stratum, bucket) for stratum in range(layout.strata) for bucket in range(layout.buckets)]
        cells = [*scored, *([(layout.strata, layout.buckets)] if layout.keep_unscored else [])]
        strata = layout.sources if layout.stratified else ["all"]
        held_T = np.any(self.counts_CU[: layout.strata * layout.buckets].reshape(layout.strata, -1), axis=1)
        described = layout.described(self.counts_CU[:, 0] + self._unused_C, self.uses_C)
        return {
            "samples": self.total,
            "different_samples": used,
            "left_out": layout.columns.samples - used,
            "repeated": self.total - used,
            "buckets": [asdict(bucket) for bucket in described],
            "strata": [*strata, *([UNSCORED] if layout.keep_unscored else [])],
            "cells": {"stratum": [stratum for stratum, _ in cells], "bucket": [bucket for _, bucket in cells]},
            "edges": layout.stratum_edges(),
            "spread_evenly": [name for name in layout.poor_strata if held_T[layout.sources.index(name)]],
        }

    def _plan(self) -> npt.NDArray[np.float64]:
        """Return the real-valued plan [S, C]: each stratum gets an even share of every step, planned within it."""
        layout = self.layout
        counts_C = self.counts_CU.sum(axis=1)
        sizes_S = step_sizes(self.total, self._batch_size).astype(np.float64)
        progress = np.concatenate([[0.0], np.cumsum(sizes_S)]) / self.total
        plan_SC = np.zeros((len(sizes_S), layout.cells))
        for stratum in range(layout.strata):
            cells = slice(stratum * layout.buckets, (stratum + 1) * layout.buckets)
            counts_K = counts_C[cells]
            poor = layout.stratified and layout.sources[stratum] in layout.poor_strata
            single = np.count_nonzero(counts_K) == 1  # it can only be spread evenly
            if single or (poor and not layout.preference.sorts):
                plan_SC[:, cells] = np.outer(sizes_S, counts_K / self.total)
            elif counts_K.any():
                names = layout.bucket_names
                wish_SK = layout.preference.log_wish(progress, counts_K, names)
                shown = [f"{name} of {layout.sources[stratum]}" for name in names] if layout.stratified else names
                part = int(counts_K.sum()) / self.total
                plan_SC[:, cells] = scaled(wish_SK, sizes_S * part, counts_K, shown)
        if layout.keep_unscored:
            plan_SC[:, -1] = sizes_S * (int(counts_C[-1]) / self.total)
        return plan_SC

    def _dealt(self) -> Deal:
        """Cut every chunk into cells and deal it, in one pass; count the samples of unused cells."""
        layout = self.layout
        samples, sorts = layout.columns.samples, layout.preference.sorts
        most = int(self.uses_C.max()) * layout.most_times
        if most > MOST_USES:
            raise ValueError(f"preference.uses repeats a sample {most} times: the maximum is {MOST_USES}")
        spool = self._stack.enter_context(Spool(self._scratch, "deal", item_dtype(sorts), samples * max(1, most)))
        deal = Deal(self.uses_C, samples, most, seed=self._seed, sorts=sorts, spool=spool)
        dtype = np.uint8 if layout.cells < 255 else np.uint16
        unused = Sums((layout.cells,))

        def work(chunk: Chunk) -> Dealt:
            cell_N: Ids = layout.cells_of(chunk).astype(dtype)  # LEFT_OUT stays the dtype's maximum
            if not self.uses_C.all():
                with unused.one() as counts_C:
                    counts_C += np.bincount(cell_N[cell_N < layout.cells], minlength=layout.cells)
            times_N = NO_TIMES if layout.times is None else layout.times(chunk.first, len(chunk))
            return deal.deal(chunk.first, cell_N, times_N, self._sort_keys(chunk) if sorts else NO_KEYS)

        for dealt in mapped(work, layout.chunks(), self._workers):
            deal.add(dealt)
        self._unused_C = unused.total() * (self.uses_C == 0)
        return deal

    def _turns(self) -> npt.NDArray[np.int64]:
        """Return (first turn of its stratum) << 32 | turn for each cell, [C]; empty if nothing is sorted."""
        layout = self.layout
        if not layout.preference.sorts:
            return NO_TURNS
        cells = np.arange(layout.cells)
        first_C = cells // layout.buckets * layout.buckets  # the unscored are a separate stratum
        scored = layout.strata * layout.buckets
        turn_C = cells.copy()
        turn_C[:scored] = first_C[:scored] + np.tile(np.argsort(layout.preference.turns(layout.buckets)), layout.strata)
        return first_C << 32 | turn_C

    def _sort_keys(self, chunk: Chunk) -> Keys:
        """Return a chunk's keys for a sorted order, [N]. Samples without a score are shuffled: their key is a hash."""
        score_N = chunk.scores[self.layout.expressions[-1].text]
        key_N = keys_of(score_N)
        unscored = np.flatnonzero(~np.isfinite(score_N))
        if len(unscored):
            shuffle = np.uint64(key_of(self._seed, "unscored"))
            with np.errstate(over="ignore"):
                hashes = mix64(unscored.astype(np.uint64) + np.uint64(chunk.first) + shuffle)
            key_N[unscored] = hashes >> np.uint64(32)
        return key_N


def _uses(layout: Layout) -> npt.NDArray[np.int64]:
    """Return how often each cell's samples are used, [C]. Raises ValueError for an unknown bucket."""
    names = [*layout.bucket_names, *([UNSCORED] if layout.keep_unscored else [])]
    wanted = layout.preference.uses
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise ValueError(f"preference.uses names {', '.join(unknown)}, but the buckets are {', '.join(names)}")
    bucket_K = [wanted.get(name, 1) for name in names]
    scored_C = np.tile(np.array(bucket_K[: layout.buckets], dtype=np.int64), layout.strata)
    return np.concatenate([scored_C, np.array(bucket_K[layout.buckets :], dtype=np.int64)])
