"""ORDER: sample ids in training order, memory-mapped, with the bucket and stage of every position."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from curriculum.artifact import Manifest, open_manifest
from curriculum.buckets import Bucket

KIND = "order"
IDS, BUCKETS, PLAN, COUNTS = "ids.bin", "buckets.bin", "plan.bin", "counts.bin"


class PositionColumn:
    """A value of every position of an order: `column[i]` or `column[i:j]`."""

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


class Order:
    """An open ORDER. `order[i:j]` are the sample ids of positions i to j in training order, int64."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        facts = manifest.facts
        self.folder = folder
        self.manifest = manifest
        self.fingerprint: str = manifest.fingerprint
        self.samples: int = facts["samples"]
        self.batch_size: int = facts["batch_size"]
        self.steps: int = facts["steps"]
        self.stage_ends: list[int] = facts["stage_ends"]
        self.buckets: list[Bucket] = [Bucket(**bucket) for bucket in facts["buckets"]]
        self._ids = np.memmap(folder / IDS, facts["id_dtype"], mode="r")
        self._buckets = np.memmap(folder / BUCKETS, facts["bucket_dtype"], mode="r")
        table = (self.steps, len(self.buckets))
        self.plan = np.memmap(folder / PLAN, "<f4", mode="r", shape=table)
        self.counts = np.memmap(folder / COUNTS, "<i4", mode="r", shape=table)
        self._positions = PositionColumn(self.samples, lambda i, j: self._ids[i:j].astype(np.int64))
        self.bucket = PositionColumn(self.samples, lambda i, j: self._buckets[i:j].astype(np.int64))
        self.stage = PositionColumn(self.samples, self._stages)

    @classmethod
    def open(cls, folder: str | Path) -> Order:
        """Open an ORDER folder in O(1). Raises ArtifactError naming what is wrong with it."""
        return cls(Path(folder), open_manifest(Path(folder), KIND))

    def __len__(self) -> int:
        return self.samples

    @overload
    def __getitem__(self, where: int) -> int: ...
    @overload
    def __getitem__(self, where: slice) -> NDArray[np.int64]: ...
    def __getitem__(self, where: int | slice) -> int | NDArray[np.int64]:
        return self._positions[where]

    def _stages(self, start: int, stop: int) -> NDArray[np.int64]:
        steps = np.arange(start, stop) // self.batch_size
        return np.searchsorted(self.stage_ends, steps, side="right").astype(np.int64) + 1


def write_order(
    folder: Path,
    chunks: Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]],
    *,
    samples: int,
    largest_id: int,
    buckets: int,
    plan: NDArray[np.float64],
    counts: NDArray[np.int64],
) -> dict[str, Any]:
    """Write an order's files from chunks of (ids, buckets) in training order; return the facts for its manifest."""
    id_dtype = "<u4" if largest_id < 2**32 else "<u8"
    bucket_dtype = "|u1" if buckets <= 256 else "<u2"
    written = 0
    with open(folder / IDS, "wb") as ids_file, open(folder / BUCKETS, "wb") as buckets_file:
        for ids, labels in chunks:
            ids_file.write(ids.astype(id_dtype).tobytes())
            buckets_file.write(labels.astype(bucket_dtype).tobytes())
            written += len(ids)
    assert written == samples, f"wrote {written} of {samples} positions"
    (folder / PLAN).write_bytes(plan.astype("<f4").tobytes())
    (folder / COUNTS).write_bytes(counts.astype("<i4").tobytes())
    return {"samples": samples, "steps": len(counts), "id_dtype": id_dtype, "bucket_dtype": bucket_dtype}
