"""ORDER: sample ids in training order, read on demand, with the bucket and stage of every position.

Files, little-endian: ids.bin (uint32, or uint64 where ids need it) and cells.bin (uint8 or uint16) by position,
plan.bin (float32) and counts.bin (int32) by step and cell, blocks.bin (one checksum per block of these four). A cell is
a bucket within a stratum; the manifest's facts define the cells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import overload

import numpy as np
from numpy.typing import NDArray

from curriculum.artifact.blocks import BlockArray, Blocks
from curriculum.artifact.files import ArtifactError, reading
from curriculum.artifact.manifest import MANIFEST, Manifest, open_manifest

KIND = "order"
IDS, CELLS, PLAN, COUNTS = "ids.bin", "cells.bin", "plan.bin", "counts.bin"


class PositionColumn:
    """One value per position of an order: `column[i]` or `column[i:j]`."""

    def __init__(self, length: int, read: Callable[[int, int], NDArray[np.int64]]) -> None:
        self._length = length
        self._read = read

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, where: int) -> int: ...
    @overload
    def __getitem__(self, where: slice) -> NDArray[np.int64]: ...
    def __getitem__(self, where: int | slice) -> int | NDArray[np.int64]:
        if isinstance(where, slice):
            start, stop, stride = where.indices(self._length)
            return self._read(start, max(start, stop))[::stride] if stride > 0 else self._read(0, self._length)[where]
        index = where + self._length if where < 0 else where
        if not 0 <= index < self._length:
            raise IndexError(f"position {where} is outside an order of {self._length} samples")
        return int(self._read(index, index + 1)[0])


class StepTable:
    """Samples by step and bucket: `table[i:j]` returns the rows of steps i to j, float64 [j - i, buckets]."""

    def __init__(self, cells: BlockArray, bucket_C: NDArray[np.int64], buckets: int) -> None:
        self._cells, self._bucket_C, self._buckets = cells, bucket_C, buckets

    def __len__(self) -> int:
        return len(self._cells)

    def __getitem__(self, where: slice) -> NDArray[np.float64]:
        rows = np.asarray(self._cells[where], dtype=np.float64)
        result = np.zeros((len(rows), self._buckets))
        np.add.at(result.T, self._bucket_C, rows.T)
        return result


class Order:
    """An open ORDER. `order[i:j]` returns the sample ids of positions i to j in training order, int64."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        facts = manifest.facts
        self.folder = folder
        self.manifest = manifest
        self.fingerprint: str = manifest.fingerprint
        self.samples: int = facts["samples"]
        self.batch_size: int = facts["batch_size"]
        """Samples per step; of a resized order, in its last steps."""
        self.steps: int = facts["steps"]
        self.batch_sizes: list[list[int]] = facts.get("batch_sizes", [[0, self.batch_size]])
        """[first step, samples per step] of every stretch of steps: several if a replanning changed the batch size."""
        self.stage_ends: list[int] = facts["stage_ends"]
        self.buckets: list[Bucket] = [Bucket(**bucket) for bucket in facts["buckets"]]
        self.strata: list[str] = facts["strata"]
        self.bucket_of_cell: NDArray[np.int64] = np.array(facts["cells"]["bucket"], dtype=np.int64)
        self.stratum_of_cell: NDArray[np.int64] = np.array(facts["cells"]["stratum"], dtype=np.int64)
        cells = len(self.bucket_of_cell)
        self._check_facts()
        self._starts = starts_of(self.batch_sizes)
        self.first_step, self.first_cursor, _ = self._starts[-1]
        """Step and position at which batches of `batch_size` begin: 0 unless a replanning changed the batch size."""
        digests = Blocks(folder, manifest)

        def array(name: str, dtype: str, rows: int, width: int = 0) -> BlockArray:
            own = digests.of(name, rows * np.dtype(dtype).itemsize * max(1, width))
            if own is None:
                raise KeyError(f"blocks.{name}")
            return BlockArray(folder / name, dtype, rows, own, width)

        self._ids = array(IDS, facts["id_dtype"], self.samples)
        self._cells = array(CELLS, facts["cell_dtype"], self.samples)
        self.cell_plan = array(PLAN, "<f4", self.steps, cells)
        self.cell_counts = array(COUNTS, "<i4", self.steps, cells)
        self.plan = StepTable(self.cell_plan, self.bucket_of_cell, len(self.buckets))
        """The real-valued plan, i.e. the preference made feasible: samples by step and bucket."""
        self.counts = StepTable(self.cell_counts, self.bucket_of_cell, len(self.buckets))
        """The contents of the order: whole samples by step and bucket."""
        self._positions = PositionColumn(self.samples, lambda i, j: self._ids[i:j].astype(np.int64))
        self.cell = PositionColumn(self.samples, lambda i, j: self._cells[i:j].astype(np.int64))
        self.bucket = PositionColumn(self.samples, lambda i, j: self.bucket_of_cell[self._cells[i:j]])
        self.stage = PositionColumn(self.samples, self._stages)

    @classmethod
    def open(cls, folder: str | Path) -> Order:
        """Open an ORDER folder in O(1). Raises ArtifactError naming what is wrong with it."""
        folder = Path(folder)
        manifest = open_manifest(folder, KIND)
        with reading(folder / MANIFEST, f"it lacks facts of an ORDER; remove {folder} and arrange again"):
            return cls(folder, manifest)

    def recheck(self) -> None:
        """Raise UnreadableError unless all that was read of this order before this call was intact."""
        for array in (self._ids, self._cells, self.cell_plan, self.cell_counts):
            array.recheck()

    def cursor_after(self, steps: int) -> int:
        """Return the position after `steps` steps: where a trainer resumes."""
        first, cursor, size = next(start for start in reversed(self._starts) if steps >= start[0])
        return min(cursor + (steps - first) * size, self.samples)

    def steps_of(self, positions_P: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the step of each position, counted from 0."""
        first_B, cursor_B, size_B = np.array(self._starts, dtype=np.int64).T
        stretch_P = np.searchsorted(cursor_B, positions_P, side="right") - 1
        steps_P: NDArray[np.int64] = first_B[stretch_P] + (positions_P - cursor_B[stretch_P]) // size_B[stretch_P]
        return steps_P

    def _check_facts(self) -> None:
        """Raise ValueError when the manifest's facts contradict each other."""
        whole = {"samples": self.samples, "batch_size": self.batch_size, "steps": self.steps}
        for name, value in whole.items():
            if type(value) is not int or value < (name == "batch_size"):
                raise ValueError(f"{name}={value!r} is not a valid number of samples or steps")
        sizes = self.batch_sizes
        steps = [step for step, _ in sizes]
        if steps[0] != 0 or steps != sorted(set(steps)) or min(size for _, size in sizes) < 1:
            raise ValueError(f"batch_sizes={sizes!r} are not batch sizes by rising first step")
        if sizes[-1][1] != self.batch_size:
            raise ValueError(f"batch_sizes={sizes!r} do not end with batch_size={self.batch_size}")
        ends = self.stage_ends
        if not isinstance(ends, list) or not all(type(end) is int for end in ends) or ends != sorted(ends):
            raise ValueError(f"stage_ends={ends!r} are not step numbers in rising order")
        for name, of_cell, named in (
            ("bucket", self.bucket_of_cell, self.buckets),
            ("stratum", self.stratum_of_cell, self.strata),
        ):
            if of_cell.ndim != 1 or len(of_cell) != len(self.bucket_of_cell) or not len(of_cell):
                raise ValueError(f"cells.{name} has shape {of_cell.shape}, not one entry per cell")
            if of_cell.min() < 0 or of_cell.max() >= len(named):
                raise ValueError(f"cells.{name} has an index outside the {len(named)} entries that exist")

    def __len__(self) -> int:
        return self.samples

    @overload
    def __getitem__(self, where: int) -> int: ...
    @overload
    def __getitem__(self, where: slice) -> NDArray[np.int64]: ...
    def __getitem__(self, where: int | slice) -> int | NDArray[np.int64]:
        return self._positions[where]

    def _stages(self, start: int, stop: int) -> NDArray[np.int64]:
        steps = self.steps_of(np.arange(start, stop))
        return np.searchsorted(self.stage_ends, steps, side="right").astype(np.int64) + 1


UNSCORED = "unscored"
"""Name of the bucket of samples without a score."""


@dataclass(frozen=True)
class Bucket:
    """One group of samples, for display: scores in (low, high], if a single cut over the whole corpus defines it."""

    name: str
    low: float | None
    high: float | None
    samples: int
    """Distinct samples."""
    uses: int = 1
    """How often each sample is used."""


def starts_of(batch_sizes: list[list[int]]) -> list[tuple[int, int, int]]:
    """Return (first step, first position, samples per step) of every stretch of steps."""
    starts: list[tuple[int, int, int]] = []
    cursor = 0
    for step, size in batch_sizes:
        if starts:
            cursor += (step - starts[-1][0]) * starts[-1][2]
        starts.append((step, cursor, size))
    return starts


def ancestors(order: Order) -> list[str]:
    """Return the fingerprints of the orders that this one was replanned from, oldest first; [] for an arranged one.

    Raises ArtifactError when the manifest names a parent, but not the ancestors or the cursor of the replanning.
    """
    manifest = order.manifest
    parent = manifest.inputs.get("parent")
    if parent is None:
        return []
    chain = manifest.facts.get("ancestors")
    if not isinstance(chain, list) or chain[-1:] != [parent] or not isinstance(replanned_at(order), int):
        raise ArtifactError(
            f"order {order.folder} names the parent {parent}, but its manifest lacks the ancestors up to it or the "
            "cursor at which it was replanned (facts.ancestors, facts.replanned_at): replan it again"
        )
    return chain


def replanned_at(order: Order) -> int | None:
    """Return the cursor up to which a replanned order is its parent's."""
    return _replan_fact(order, "cursor")


def replan_step(order: Order) -> int | None:
    """Return the step up to which a replanned order is its parent's."""
    return _replan_fact(order, "step")


def _replan_fact(order: Order, key: str) -> int | None:
    point = order.manifest.facts.get("replanned_at")
    return point.get(key) if isinstance(point, dict) else None
