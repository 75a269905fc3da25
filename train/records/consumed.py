"""The samples each rank consumed, as files of a RUN."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curriculum.artifact.append import AppendedFile
from curriculum.artifact.files import replacing
from curriculum.order.consumed import joined
from train.records.layout import CONSUMED

NO_SAMPLE = -1
"""Padding of short rows."""


class ConsumedFile:
    """The samples one rank consumed: rows of int64 [step, ids...], short rows padded with `NO_SAMPLE`.

    `hash` is the consumed hash of this rank's samples in this attempt; rank 0 starts from the hash of earlier attempts,
    so the sum over ranks is the hash of the run.
    """

    def __init__(self, folder: Path, rank: int, world_size: int, width: int, consumed_hash: int) -> None:
        self.width = width
        self.hash = consumed_hash if rank == 0 else 0
        self._file = AppendedFile(folder / CONSUMED / f"world_{world_size:05d}_rank_{rank:05d}_width_{width}.bin")

    def append(self, step: int, ids: list[int], own_hash: int) -> None:
        """Record the samples of a step and add their consumed hash at their positions."""
        row = np.full(1 + self.width, NO_SAMPLE, dtype=np.int64)
        row[0] = step
        row[1 : 1 + len(ids)] = ids
        self._file.append(row.tobytes())
        self.hash = joined(self.hash, own_hash)

    def sync(self) -> None:
        """Flush the record to disk (fsync). Raises Misplaced if another process moved the file or wrote to it."""
        self._file.sync()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def forget_consumed(folder: Path, step: int) -> None:
    """Drop the records from `step` on: a resumed run consumes them again. Call once, before ranks append."""
    (folder / CONSUMED).mkdir(exist_ok=True)
    for path in (folder / CONSUMED).glob("world_*.bin"):
        rows = _rows(path, int(path.stem.split("_")[5]))
        with replacing(path) as file:
            file.write(rows[rows[:, 0] < step].tobytes())


def _rows(path: Path, width: int) -> NDArray[np.int64]:
    """Return the complete rows of a record [n, 1 + width]; a torn last row is dropped."""
    flat = np.fromfile(path, dtype=np.int64)
    whole = len(flat) // (1 + width) * (1 + width)
    return flat[:whole].reshape(-1, 1 + width)


def read_consumed(folder: Path) -> NDArray[np.int64]:
    """Return the sample ids that a run consumed, by step and rank, [n].

    Raises ValueError if two files record the same step of the same rank.
    """
    parts: dict[tuple[int, int], NDArray[np.int64]] = {}
    for path in sorted((folder / CONSUMED).glob("world_*.bin")):
        fields = path.stem.split("_")
        rank, width = int(fields[3]), int(fields[5])
        for row in _rows(path, width):
            key = (int(row[0]), rank)
            if key in parts:
                raise ValueError(
                    f"{path} records step {key[0]} of rank {rank}, which another file records too: "
                    "the run folder was modified; restore it"
                )
            parts[key] = row[1:][row[1:] != NO_SAMPLE]
    return np.concatenate([parts[key] for key in sorted(parts)]) if parts else np.empty(0, dtype=np.int64)


def consumed_at(folder: Path, step: int) -> NDArray[np.int64] | None:
    """Return the samples that a run consumed at a step (counted from 0), rank by rank; None if no record has the step.

    Reads only the rows' step numbers, and the rows of that step.
    """
    parts: dict[int, NDArray[np.int64]] = {}
    for path in (folder / CONSUMED).glob("world_*.bin"):
        fields = path.stem.split("_")
        rank, width = int(fields[3]), int(fields[5])
        rows = path.stat().st_size // (8 * (1 + width))
        if rows == 0:
            continue
        table = np.memmap(path, np.int64, mode="r", shape=(rows, 1 + width))
        for row in np.flatnonzero(table[:, 0] == step):
            if rank in parts:
                raise ValueError(
                    f"{path} records step {step} of rank {rank} a second time: the run folder was modified; restore it"
                )
            parts[rank] = np.array(table[row, 1:][table[row, 1:] != NO_SAMPLE])
    return np.concatenate([parts[rank] for rank in sorted(parts)]) if parts else None
