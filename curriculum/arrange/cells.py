"""Buckets: how a preference's cuts divide the corpus, and which cell every sample falls into.

A stratum is a source if the preference is stratified, else the whole corpus. A cell is a bucket within a stratum;
cells are numbered stratum by stratum. Samples without a score can have a separate cell after all others.

Shapes: N samples of a chunk, T strata, K buckets, C = T * K cells (plus one for the unscored).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from curriculum.arrange.quantiles import LEFT_OUT, Keys, Scored, bits_of, equal_parts, keys_of, scores_of
from curriculum.order.order import UNSCORED, Bucket
from curriculum.order.permutation import mix64
from curriculum.preference.base import FOLD, SOURCE, Cut, Preference
from curriculum.scores.columns import Chunk, SampleColumns
from curriculum.scores.expression import Expression
from curriculum.work.cpus import usable_cpus
from curriculum.work.threads import prefetched

MOST_CELLS = 65_000

Times = Callable[[int, int], NDArray[np.uint8]]
"""times(i, n): how often each of the n samples from i on may be used: 0 or 1, or its uses left in a read order."""


@dataclass(frozen=True)
class CutEdges:
    """A cut and its edges [parts so far, edges] as keys."""

    cut: Cut
    parts: int
    keys_PE: Keys


class Layout:
    """The cells of a corpus under a preference."""

    def __init__(
        self,
        preference: Preference,
        columns: SampleColumns,
        *,
        fold_key: int,
        keep_unscored: bool = False,
        times: Times | None = None,
        most_times: int = 1,
        workers: int | None = None,
    ) -> None:
        """Find the edges of every cut: two passes over the scores per cut into equal parts.

        `times` returns how often samples may be used, `most_times` at most (None: every sample once); `keep_unscored`
        puts samples without a finite score into a separate cell. Raises ValueError for non-finite scores otherwise,
        for missing columns and for more buckets than distinct scores. The result does not depend on `workers`, the
        number of threads (None: one per usable CPU).
        """
        self.preference = preference
        self.columns = columns
        self.keep_unscored = keep_unscored
        self.times, self.most_times = times, most_times
        self.workers = workers or usable_cpus()
        self.stratified = preference.stratify_by == SOURCE
        self.sources = columns.sources
        self.strata = len(self.sources) if self.stratified else 1
        self.bucket_names = preference.bucket_names(self.sources)
        self.poor_strata: list[str] = []
        self.expressions = [Expression(cut.by) for cut in preference.cuts() if cut.by not in (SOURCE, FOLD)]
        self.cuts: list[CutEdges] = []
        self._fold_key = fold_key
        self._finite: set[str] = set()
        self._seen_unscored = False
        for expression in self.expressions:
            columns.check(expression)
        if self.cells > MOST_CELLS:
            raise ValueError(
                f"preference.buckets: {self.buckets} buckets in {self.strata} strata exceed {MOST_CELLS} cells: "
                "use fewer buckets"
            )
        for cut in preference.cuts():
            self.cuts.append(self._with_edges(cut))

    def chunks(self) -> Iterator[Chunk]:
        """Yield all samples, with the scores that the cuts need."""
        return prefetched(self.columns.chunks(self.expressions))

    @property
    def buckets(self) -> int:
        """Number of buckets, excluding the unscored."""
        return len(self.bucket_names)

    @property
    def cells(self) -> int:
        """Number of cells; the last one is for the unscored, if they are kept."""
        return self.strata * self.buckets + self.keep_unscored

    def cells_of(self, chunk: Chunk) -> NDArray[np.uint16]:
        """Return the cell of every sample of a chunk, [N]; LEFT_OUT for samples that are not arranged."""
        cell_N = self._parts(chunk, len(self.cuts))
        unscored_N = self._unscored(chunk) if self.keep_unscored else None
        if unscored_N is not None:
            cell_N[unscored_N] = self.cells - 1
        return cell_N

    def described(self, counts_C: NDArray[np.int64], uses_C: NDArray[np.int64]) -> list[Bucket]:
        """Return the buckets for display, from the samples [C] and uses [C] of every cell."""
        scored = self.strata * self.buckets
        counts_K = counts_C[:scored].reshape(self.strata, self.buckets).sum(axis=0)
        bounds = self._bounds()
        result = [
            Bucket(name, low, high, int(count), int(uses))
            for name, (low, high), count, uses in zip(
                self.bucket_names, bounds, counts_K, uses_C[: self.buckets], strict=True
            )
        ]
        return (
            [*result, Bucket(UNSCORED, None, None, int(counts_C[-1]), int(uses_C[-1]))]
            if self.keep_unscored
            else result
        )

    def stratum_edges(self) -> dict[str, list[float]]:
        """Return the edges of the first score cut by stratum, for readers of the manifest."""
        names = self.sources if self.stratified else ["all"]
        for made in self.cuts:
            if made.cut.by not in (SOURCE, FOLD) and len(made.keys_PE) == self.strata:
                rows = scores_of(made.keys_PE)
                return {
                    name: [float(edge) for edge in row]
                    for name, row in zip(names, rows, strict=True)
                    if name not in self.poor_strata
                }
        return {}

    def _bounds(self) -> list[tuple[float | None, float | None]]:
        simple = len(self.cuts) == 1 and not self.stratified and self.cuts[0].cut.by not in (SOURCE, FOLD)
        if not simple:
            return [(None, None)] * self.buckets
        edges: list[float | None] = [None, *(float(edge) for edge in scores_of(self.cuts[0].keys_PE[0])), None]
        return list(pairwise(edges))

    def _with_edges(self, cut: Cut) -> CutEdges:
        inside = self.strata * int(np.prod([made.parts for made in self.cuts], dtype=np.int64))
        if cut.by == SOURCE:
            return CutEdges(cut, len(self.sources), np.zeros((inside, 0), dtype=np.uint32))
        if cut.by == FOLD:
            return CutEdges(cut, cut.parts, np.zeros((inside, 0), dtype=np.uint32))
        if cut.edges:
            with np.errstate(over="ignore"):
                edges_E = np.array(cut.edges, dtype=np.float32)
            keys_E = keys_of(edges_E)
            if not np.isfinite(edges_E).all() or (np.diff(keys_E.astype(np.int64)) <= 0).any():
                raise ValueError(
                    f"preference.edges={list(cut.edges)} are not finite and rising in float32: move them apart"
                )
            return CutEdges(cut, cut.parts, np.tile(keys_E, (inside, 1)))
        done = len(self.cuts) if cut.nested else 0
        parts = inside if cut.nested else self.strata

        def scored(chunk: Chunk) -> Scored:
            return Scored(bits_of(chunk.scores[cut.by]), chunk.weight_N, self._parts(chunk, done))

        edges = equal_parts(lambda: (partial(scored, chunk) for chunk in self.chunks()), parts, cut.parts, self.workers)
        if not self._seen_unscored:  # two passes saw finite scores only: later ones skip the check
            self._finite.update(expression.text for expression in self.expressions)
        self._check_poor(edges.poor_P, cut, parts)
        return CutEdges(cut, cut.parts, np.repeat(edges.keys_PE, inside // parts, axis=0))

    def _check_poor(self, poor_P: NDArray[np.bool_], cut: Cut, parts: int) -> None:
        if not poor_P.any():
            return
        if not self.stratified or poor_P.all():
            raise ValueError(
                f"buckets: score {cut.by!r} has too few distinct values for {cut.parts} buckets: "
                "use fewer buckets, or check that the scores are not all equal"
            )
        names = [self.sources[part * self.strata // parts] for part in np.flatnonzero(poor_P)]
        self.poor_strata = sorted({*self.poor_strata, *names})

    def _parts(self, chunk: Chunk, cuts: int) -> NDArray[np.uint16]:
        """Return each sample's part after the first `cuts` cuts, [N]; LEFT_OUT for samples that are not arranged."""
        from curriculum.arrange.kernels import refine

        part_N = chunk.source_N.copy() if self.stratified else np.zeros(len(chunk), dtype=np.uint16)
        if self.times is not None:
            part_N[~self._counts(chunk)] = LEFT_OUT
        unscored_N = self._unscored(chunk)
        if unscored_N is not None:
            if not self.keep_unscored:
                raise self._not_finite()
            part_N[unscored_N] = LEFT_OUT
        for made in self.cuts[:cuts]:
            if made.cut.by in (SOURCE, FOLD):
                number_N = chunk.source_N if made.cut.by == SOURCE else self._fold(chunk, made.parts)
                kept = part_N != LEFT_OUT
                part_N[kept] = (part_N[kept].astype(np.int64) * made.parts + number_N[kept]).astype(np.uint16)
            else:
                refine(bits_of(chunk.scores[made.cut.by]), made.keys_PE, part_N)
        return part_N

    def _counts(self, chunk: Chunk) -> NDArray[np.bool_]:
        if self.times is None:
            return np.ones(len(chunk), dtype=np.bool_)
        return self.times(chunk.first, len(chunk)) > 0

    def _unscored(self, chunk: Chunk) -> NDArray[np.bool_] | None:
        """Return which arranged samples have a non-finite score, [N]; None if there are none."""
        from curriculum.arrange.kernels import all_finite

        unscored_N: NDArray[np.bool_] | None = None
        for expression in self.expressions:
            score_N = chunk.scores[expression.text]
            if expression.text not in self._finite and not all_finite(bits_of(score_N)):
                self._seen_unscored = True
                infinite_N = ~np.isfinite(score_N) & self._counts(chunk)
                unscored_N = infinite_N if unscored_N is None else unscored_N | infinite_N
        return unscored_N if unscored_N is not None and unscored_N.any() else None

    def _not_finite(self) -> ValueError:
        """Return the error for non-finite scores: count them in a separate pass and name the first three."""
        count = 0
        examples: list[str] = []
        for chunk in self.chunks():
            unscored_N = self._unscored(chunk)
            for index in np.flatnonzero(unscored_N) if unscored_N is not None else ():
                count += 1
                if len(examples) < 3:
                    values = {expression.text: chunk.scores[expression.text][index] for expression in self.expressions}
                    examples.append(
                        f"sample {chunk.first + index} ({', '.join(f'{k}={v}' for k, v in values.items())})"
                    )
        return ValueError(
            f"scores are not finite for {count} samples of {self.columns.place}: "
            f"{', '.join(examples)}{', ...' if count > 3 else ''}: "
            "score them again, or put them in a separate bucket, spread evenly, with nonfinite=bucket "
            f"(preference.uses.{UNSCORED}=0 then leaves them out)"
        )

    def _fold(self, chunk: Chunk, folds: int) -> NDArray[np.int64]:
        ids = np.arange(chunk.first, chunk.first + len(chunk), dtype=np.uint64)
        with np.errstate(over="ignore"):
            hashes = mix64(ids + np.uint64(self._fold_key))
        return ((hashes >> np.uint64(32)) * np.uint64(folds) >> np.uint64(32)).astype(np.int64)
