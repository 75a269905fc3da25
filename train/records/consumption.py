"""The samples a run consumed at one step, read from the record that its ranks keep."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

CONSUMED = "consumed"
"""Folder of a run with one file per rank: rows of int64 [step, ids...], steps counted from 0."""
NO_SAMPLE = -1
"""Padding of short rows."""


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
