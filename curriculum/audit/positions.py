"""The audit's pass over the positions of an order: steps against counts and plan, samples against their uses.

Shapes: S steps, C cells, N samples of the slice.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from curriculum.arrange.plan import ROUNDING_NOISE, step_sizes
from curriculum.audit.checks import Check
from curriculum.order.order import Order

AT_ONCE = 1 << 20
"""Positions, or entries of a table, per chunk."""
FLOAT32_ROUNDS = 2.0**-24
"""Largest relative error of a plan entry on disk."""
ROW_ERROR = 1e-6
"""Largest relative error of a row sum of the plan."""
NOWHERE = 0xFFFF


class Walk:
    """One pass over an order from its first step to its last. `times_N` is how often each sample occurs in it."""

    def __init__(self, order: Order) -> None:
        facts = order.manifest.facts
        self.order = order
        self.samples = int(facts["different_samples"]) + int(facts["left_out"])
        self.times_N = np.zeros(self.samples, dtype=np.uint8)
        self.total_C = np.zeros(len(order.bucket_of_cell), dtype=np.int64)
        self.deviation = 0.0
        self._excess = -1.0
        self._deviates_at = (0, 0)
        self._plan_C = np.zeros(len(self.total_C))
        self._problems: dict[str, str] = {}
        sizes_S = step_sizes(len(order) - order.first_cursor, order.batch_size)
        earlier = zip(order.batch_sizes, order.batch_sizes[1:], strict=False)
        sizes_S = np.concatenate([*(np.full(stop - first, size) for (first, size), (stop, _) in earlier), sizes_S])
        if len(sizes_S) != order.steps:
            self._problem("batches", f"{len(order):,} positions make {len(sizes_S)} steps, not {order.steps}")
            sizes_S = np.resize(sizes_S, order.steps)
        self._last = int(sizes_S[-1])
        for first, stop in chunks_of_steps(order):
            counts_SC = order.cell_counts[first:stop].astype(np.int64)
            plan_SC = order.cell_plan[first:stop].astype(np.float64)
            self._rows(first, counts_SC, plan_SC, sizes_S[first:stop])
            self._running(first, counts_SC, plan_SC)
            self._positions(first, stop, counts_SC)
        self.different = int(np.count_nonzero(self.times_N))

    @property
    def countable(self) -> bool:
        """Could every position be counted?"""
        return "ids" not in self._problems and "composition" not in self._problems

    def checks(self) -> Iterator[Check]:
        """Yield the results."""
        order = self.order
        last = f", the last of {self._last:,}" if self._last != order.batch_size else ""
        sizes = ", then ".join(f"{size:,}" for _, size in order.batch_sizes)
        yield self._check("batches", f"{order.steps:,} steps of {sizes} samples{last}")
        yield self._check("composition", f"each step matches counts.bin for all {len(self.total_C):,} cells")
        step, cell = self._deviates_at
        yield Check(
            "deviation",
            self._excess < 1.0 + ROUNDING_NOISE,
            f"at most {self.deviation:.5f} samples from the plan ({cell_name(order, cell)}, step {step + 1:,}), "
            "must be less than 1",
        )
        yield self._stages()
        if self.countable:
            yield self._samples()
            if not order.manifest.facts.get("ancestors"):
                yield self._buckets()
        else:
            yield Check("samples", False, self._problems.get("ids", "not counted, because the steps are wrong"))

    def _rows(
        self, first: int, counts_SC: NDArray[np.int64], plan_SC: NDArray[np.float64], sizes_S: NDArray[np.int64]
    ) -> None:
        sums = ((counts_SC.sum(axis=1), 0.0, "counts.bin"), (plan_SC.sum(axis=1), ROW_ERROR, "plan.bin"))
        for sum_S, error, name in sums:
            wrong = np.flatnonzero(np.abs(sum_S - sizes_S) > error * sizes_S)
            if len(wrong):
                at = int(wrong[0])
                self._problem("batches", f"step {first + at + 1:,} of {name} sums to {sum_S[at]:g}, not {sizes_S[at]}")
        if (counts_SC < 0).any():
            self._problem("batches", f"counts.bin holds a negative number near step {first + 1:,}")

    def _running(self, first: int, counts_SC: NDArray[np.int64], plan_SC: NDArray[np.float64]) -> None:
        run_SC = np.cumsum(counts_SC, axis=0) + self.total_C
        want_SC = np.cumsum(plan_SC, axis=0) + self._plan_C
        off_SC = np.abs(run_SC - want_SC)
        excess_SC = off_SC - FLOAT32_ROUNDS * want_SC
        step, cell = np.unravel_index(int(np.argmax(excess_SC)), excess_SC.shape)
        if excess_SC[step, cell] > self._excess:
            self._excess, self.deviation = float(excess_SC[step, cell]), float(off_SC[step, cell])
            self._deviates_at = (first + int(step), int(cell))
        self.total_C, self._plan_C = run_SC[-1], want_SC[-1]

    def _positions(self, first: int, stop: int, counts_SC: NDArray[np.int64]) -> None:
        order, cells = self.order, len(self.total_C)
        part = slice(order.cursor_after(first), order.cursor_after(stop))
        ids, cell_P = order[part], order.cell[part]
        if len(ids) and int(cell_P.max()) >= cells:
            self._problem("composition", f"cells.bin holds cell {int(cell_P.max())} of {cells} cells")
            return
        step_P = order.steps_of(np.arange(part.start, part.stop)) - first
        found_SC = np.bincount(step_P * cells + cell_P, minlength=counts_SC.size)[: counts_SC.size]
        wrong = np.argwhere(found_SC.reshape(counts_SC.shape) != counts_SC)
        if len(wrong):
            step, cell = (int(number) for number in wrong[0])
            self._problem(
                "composition",
                f"step {first + step + 1:,} holds {found_SC[step * cells + cell]} samples of "
                f"{cell_name(order, cell)}, but counts.bin says {counts_SC[step, cell]}",
            )
        outside = np.flatnonzero((ids < 0) | (ids >= self.samples))
        if len(outside):
            at = int(outside[0])
            self._problem(
                "ids", f"position {part.start + at:,} holds sample {ids[at]}, but there are {self.samples:,} samples"
            )
            return
        np.add.at(self.times_N, ids, np.uint8(1))

    def _samples(self) -> Check:
        """Compare the number of samples in the order with the manifest."""
        facts, positions = self.order.manifest.facts, len(self.order)
        counted = int(self.times_N.sum(dtype=np.int64))
        found = {"different": self.different, "left out": self.samples - self.different}
        found |= {"repeated": positions - self.different}
        said = {"different": facts["different_samples"], "left out": facts["left_out"], "repeated": facts["repeated"]}
        text = ", ".join(f"{number:,} {name}" for name, number in found.items())
        if counted != positions:
            return Check("samples", False, "a sample occurs more than 255 times")
        if found != said:
            theirs = ", ".join(f"{number:,} {name}" for name, number in said.items())
            return Check("samples", False, f"{text}, but the manifest says {theirs}")
        return Check("samples", True, f"{positions:,} positions: {text}")

    def _buckets(self) -> Check:
        """Compare each bucket's positions with its samples times its uses."""
        order = self.order
        total_K = np.bincount(order.bucket_of_cell, weights=self.total_C, minlength=len(order.buckets))
        for bucket, found in zip(order.buckets, total_K.astype(np.int64), strict=True):
            if found != bucket.samples * bucket.uses:
                return Check(
                    "buckets",
                    False,
                    f"{bucket.name} has {found:,} positions, but {bucket.samples:,} samples with {bucket.uses} uses",
                )
        return Check("buckets", True, f"{len(order.buckets)} buckets hold their samples times their uses")

    def _stages(self) -> Check:
        ends = self.order.stage_ends
        rising = all(a < b for a, b in zip([0, *ends], ends, strict=False))
        if not rising or ends[-1] != self.order.steps:
            return Check("stages", False, f"stages end after steps {ends}: they must rise to {self.order.steps}")
        return Check("stages", True, f"{len(ends)} stages, the last ends after step {ends[-1]:,}")

    def _problem(self, name: str, text: str) -> None:
        self._problems.setdefault(name, text)

    def _check(self, name: str, figure: str) -> Check:
        return Check(name, name not in self._problems, self._problems.get(name, figure))


def check_uses(order: Order, times_N: NDArray[np.uint8], with_parent: bool) -> Iterator[Check]:
    """Check that each sample occurs as often as its bucket's uses say, and in one bucket only.

    If a replanned order repeats samples, only its parent (`with_parent`) says how often each should occur.
    """
    uses_K = np.array([bucket.uses for bucket in order.buckets], dtype=np.int64)
    if not order.manifest.facts.get("ancestors"):
        yield _as_used(order, times_N, uses_K[order.bucket_of_cell])
    elif uses_K.max(initial=0) <= 1:
        twice = np.flatnonzero(times_N > 1)
        said = "no sample occurs twice, before or after the replanning"
        if len(twice):
            said = f"{_times(int(twice[0]), times_N)}, but 1 was planned ({len(twice):,} such samples)"
        yield Check("uses", not len(twice), said)
    elif not with_parent:
        yield Check("uses", None, "read and new parts share samples: give parent=ORDER to check how often each occurs")


def _as_used(order: Order, times_N: NDArray[np.uint8], uses_C: NDArray[np.int64]) -> Check:
    cell_N = np.full(len(times_N), NOWHERE, dtype=np.uint16) if times_N.max(initial=0) > 1 else None
    wrong, example = 0, ""
    for start in range(0, len(order), AT_ONCE):
        ids, cell_P = order[start : start + AT_ONCE], order.cell[start : start + AT_ONCE]
        bad_P = times_N[ids] != uses_C[cell_P]
        if cell_N is not None:
            new_P = cell_N[ids] == NOWHERE
            cell_N[ids[new_P]] = cell_P[new_P]
            bad_P |= cell_N[ids] != cell_P
        if bad_P.any():
            at = int(np.flatnonzero(bad_P)[0])
            planned = f"{uses_C[cell_P[at]]} planned for bucket {cell_name(order, int(cell_P[at]))}"
            example = example or f"{_times(int(ids[at]), times_N)}, {planned}"
            wrong += int(np.count_nonzero(bad_P))
    if wrong:
        return Check("uses", False, f"{example} ({wrong:,} positions are wrong)")
    return Check("uses", True, "each sample occurs as often as its bucket's uses say")


def chunks_of_steps(order: Order) -> Iterator[tuple[int, int]]:
    """Yield (first, stop) of step ranges with about AT_ONCE positions or table entries."""
    rows = max(1, AT_ONCE // max(order.batch_size, len(order.bucket_of_cell)))
    for first in range(0, order.steps, rows):
        yield first, min(first + rows, order.steps)


def cell_name(order: Order, cell: int) -> str:
    """Return a cell's display name: its bucket, and its stratum if there are several."""
    bucket = order.buckets[int(order.bucket_of_cell[cell])].name
    return f"{bucket} of {order.strata[int(order.stratum_of_cell[cell])]}" if len(order.strata) > 1 else bucket


def _times(sample: int, times_N: NDArray[np.uint8]) -> str:
    return f"sample {sample} occurs {times_N[sample]} time{'' if times_N[sample] == 1 else 's'}"
