"""An arrangement: cells counted, planned and dealt, ready to be written in training order.

Shapes: S steps, C cells, U uses, T times that a sample may be used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from curriculum.buckets import UNSCORED, Layout
from curriculum.columns import CHUNK_SAMPLES, Chunk
from curriculum.compose import NO_TURNS, composed
from curriculum.concurrency import Sums, mapped
from curriculum.deal import Deal, Dealt, Ids, item_dtype
from curriculum.permutation import key_of, mix64
from curriculum.plan import round_plan, scaled, step_sizes
from curriculum.quantiles import Keys, keys_of
from curriculum.spool import Spool

MOST_SORTED = 1 << 32
MOST_USES = 255
CELL_BYTES = 1 << 30
"""Cells kept in memory until the samples are dealt: a billion samples' in up to 254 cells."""
NO_TIMES, NO_KEYS = np.zeros(0, dtype=np.uint8), np.zeros(0, dtype=np.uint32)


class Arrangement:
    """Counts, plans and deals on entering; `pieces` are the order. Memory does not grow with the samples.

    `plan_SC` is the real plan, float64, and `counts_SC` the whole one, int32; `total` counts positions.
    """

    def __init__(self, layout: Layout, batch_size: int, seed: int, scratch: Path | None) -> None:
        """`scratch` is a folder for what memory does not hold; None: hold everything."""
        if layout.preference.sorts and layout.columns.samples > MOST_SORTED:
            raise ValueError(
                f"preference={layout.preference.name} sorts {MOST_SORTED} samples at most, there are "
                f"{layout.columns.samples}: use preference=tilt with a high steepness"
            )
        self.layout = layout
        self.uses_C = _uses(layout)
        self._batch_size, self._seed, self._workers = batch_size, seed, layout.workers
        self._stack = ExitStack()
        cell_dtype = np.uint8 if layout.cells < 255 else np.uint16
        self._cells = self._stack.enter_context(Spool(scratch, "cells", cell_dtype, layout.columns.samples, CELL_BYTES))
        self._scratch = scratch

    def __enter__(self) -> Self:
        try:
            self.counts_CT = self._count()
            self.counts_CU = _by_use(self.counts_CT, self.uses_C)
            self.total = int(self.counts_CU.sum())
            if self.total == 0:
                raise ValueError("preference.uses leaves out every sample: use at least one bucket")
            self.plan_SC = self._plan()
            self.counts_SC = round_plan(self.plan_SC, self._batch_size, self.counts_CU.sum(axis=1))
            self._deal = self._dealt()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def pieces(self, into: Ids | None = None) -> Iterator[tuple[Ids, npt.NDArray[Any]]]:
        """Yield (sample ids, cells) in training order, in pieces that do not change the result.

        The ids are written `into` an array of `total` where there is one: the pieces are parts of it.
        """
        key = key_of(self._seed, "step")
        return composed(self._deal, self.counts_SC, key, self._workers, turn_C=self._turns(), into=into)

    def facts(self) -> dict[str, Any]:
        """Return what the manifest says of samples, buckets and cells."""
        layout = self.layout
        used = int(self.counts_CU[:, 0].sum())
        scored = [(stratum, bucket) for stratum in range(layout.strata) for bucket in range(layout.buckets)]
        cells = [*scored, *([(layout.strata, layout.buckets)] if layout.keep_unscored else [])]
        strata = layout.sources if layout.stratified else ["all"]
        described = layout.described(self.counts_CT[:, 1:].sum(axis=1), self.uses_C)
        return {
            "samples": self.total,
            "different_samples": used,
            "left_out": layout.columns.samples - used,
            "repeated": self.total - used,
            "buckets": [asdict(bucket) for bucket in described],
            "strata": [*strata, *([UNSCORED] if layout.keep_unscored else [])],
            "cells": {"stratum": [stratum for stratum, _ in cells], "bucket": [bucket for _, bucket in cells]},
            "edges": layout.stratum_edges(),
            "spread_evenly": layout.poor_strata,
        }

    def _count(self) -> npt.NDArray[np.int64]:
        """Put every sample's cell on the spool; count the samples of each cell by their times, [C, T]."""
        from curriculum.kernels import count_cells

        counts = Sums((self.layout.cells, MOST_USES + 1))
        dtype = self._cells.dtype

        def work(chunk: Chunk) -> Ids:
            cell_N: Ids = self.layout.cells_of(chunk).astype(dtype)  # what is left out stays the type's largest number
            with counts.one() as counts_CT:
                count_cells(cell_N, np.iinfo(dtype).max, self._times(chunk.first, len(chunk)), counts_CT)
            return cell_N

        for cell_N in mapped(work, self.layout.chunks(), self._workers):
            self._cells.append(cell_N)
        return counts.total()

    def _times(self, first: int, count: int) -> npt.NDArray[np.uint8]:
        return NO_TIMES if self.layout.times is None else self.layout.times(first, count)

    def _plan(self) -> npt.NDArray[np.float64]:
        """Return the real plan [S, C]: every stratum has its even part of each step, and its own plan inside that."""
        layout = self.layout
        counts_C = self.counts_CU.sum(axis=1)
        sizes_S = step_sizes(self.total, self._batch_size).astype(np.float64)
        progress = np.concatenate([[0.0], np.cumsum(sizes_S)]) / self.total
        plan_SC = np.zeros((len(sizes_S), layout.cells))
        for stratum in range(layout.strata):
            cells = slice(stratum * layout.buckets, (stratum + 1) * layout.buckets)
            counts_K = counts_C[cells]
            poor = layout.stratified and layout.sources[stratum] in layout.poor_strata
            alone = np.count_nonzero(counts_K) == 1  # there is no choice but to take it evenly
            if alone or (poor and not layout.preference.sorts):
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
        sorts = self.layout.preference.sorts
        ids: npt.DTypeLike = np.uint32 if self.layout.columns.samples <= 1 << 32 else np.uint64
        spool = self._stack.enter_context(Spool(self._scratch, "deal", item_dtype(sorts), self.total))
        deal = Deal(self.counts_CU, self.uses_C, seed=self._seed, sorts=sorts, id_dtype=ids, spool=spool)

        samples = self.layout.columns.samples

        def work(item: tuple[int, Keys]) -> Dealt:
            first, key_N = item
            stop = min(first + CHUNK_SAMPLES, samples)
            cell_N = self._cells.read(first, stop)
            return deal.deal(first, cell_N, self._times(first, stop - first), key_N)

        firsts = range(0, samples, CHUNK_SAMPLES)
        for dealt in mapped(work, zip(firsts, self._sort_keys(), strict=True), self._workers):
            deal.add(dealt)
            self._cells.forget(dealt.first, dealt.first + CHUNK_SAMPLES)
        self._cells.close()
        return deal

    def _turns(self) -> npt.NDArray[np.int64]:
        """Return each cell's turn in a sort, after its stratum's first turn << 32; none where nothing is sorted."""
        layout = self.layout
        if not layout.preference.sorts:
            return NO_TURNS
        cells = np.arange(layout.cells)
        first_C = cells // layout.buckets * layout.buckets  # the unscored are a stratum of their own
        scored = layout.strata * layout.buckets
        turn_C = cells.copy()
        turn_C[:scored] = first_C[:scored] + np.tile(np.argsort(layout.preference.turns(layout.buckets)), layout.strata)
        return first_C << 32 | turn_C

    def _sort_keys(self) -> Iterator[Keys]:
        """Yield for every chunk the keys that a sorted order sorts by; empty ones where it is not sorted.

        What has no score is shuffled: its key is a hash.
        """
        if not self.layout.preference.sorts:
            yield from (NO_KEYS for _ in range(0, self.layout.columns.samples, CHUNK_SAMPLES))
            return
        score = self.layout.expressions[-1].text
        shuffle = np.uint64(key_of(self._seed, "unscored"))
        for chunk in self.layout.chunks():
            key_N = keys_of(chunk.scores[score])
            unscored = np.flatnonzero(~np.isfinite(chunk.scores[score]))
            if len(unscored):
                with np.errstate(over="ignore"):
                    hashes = mix64(unscored.astype(np.uint64) + np.uint64(chunk.first) + shuffle)
                key_N[unscored] = hashes >> np.uint64(32)
            yield key_N


def _uses(layout: Layout) -> npt.NDArray[np.int64]:
    """Return how often each cell's samples are used, [C]. Raises ValueError for a bucket that is not there."""
    names = [*layout.bucket_names, *([UNSCORED] if layout.keep_unscored else [])]
    wanted = layout.preference.uses
    unknown = sorted(set(wanted) - set(names))
    if unknown:
        raise ValueError(f"preference.uses names {', '.join(unknown)}, but the buckets are {', '.join(names)}")
    bucket_K = [wanted.get(name, 1) for name in names]
    scored_C = np.tile(np.array(bucket_K[: layout.buckets], dtype=np.int64), layout.strata)
    return np.concatenate([scored_C, np.array(bucket_K[layout.buckets :], dtype=np.int64)])


def _by_use(counts_CT: npt.NDArray[np.int64], uses_C: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return how many samples of each cell are used more than u times, [C, U], from their times and the cell's uses."""
    times_T = np.arange(counts_CT.shape[1])
    present_CT = (counts_CT > 0) & (times_T > 0)
    total_CT = uses_C[:, None] * times_T
    most = int(total_CT[present_CT].max(initial=1))
    if most > MOST_USES:
        raise ValueError(f"preference.uses makes a sample stand {most} times: {MOST_USES} are the most")
    result = [(counts_CT * (present_CT & (total_CT > use))).sum(axis=1) for use in range(max(1, most))]
    return np.stack(result, axis=1)
