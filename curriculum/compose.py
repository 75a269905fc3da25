"""Compose: the plan and every cell's dealt samples become the files of an ORDER.

Shapes: S steps, C cells.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt

from curriculum.artifact import Draft
from curriculum.blocks import BlockWriter, write_blocks
from curriculum.deal import Deal, Ids
from curriculum.order import CELLS, COUNTS, IDS, PLAN

POSITIONS_AT_ONCE = 1 << 20
NO_TURNS = np.zeros(0, dtype=np.int64)


def id_dtype(largest: int) -> str:
    """Return the smallest type that holds every id: uint32 below 2^32, else uint64."""
    return "<u4" if largest < 1 << 32 else "<u8"


def cell_dtype(cells: int) -> str:
    """Return the smallest type of cells."""
    return "|u1" if cells <= 1 << 8 else "<u2"


class OrderWriter:
    """Writes the files of an order in turn: `positions` and `steps`; `finish` gives the facts for the manifest."""

    def __init__(self, draft: Draft, largest_id: int, cells: int) -> None:
        self._draft = draft
        self._stack = ExitStack()
        dtypes = {IDS: id_dtype(largest_id), CELLS: cell_dtype(cells), PLAN: "<f4", COUNTS: "<i4"}
        self._files = {
            name: self._stack.enter_context(BlockWriter(draft.path / name, dtype)) for name, dtype in dtypes.items()
        }

    def positions(self, ids: Ids | npt.NDArray[np.int64], cells: npt.NDArray[Any]) -> None:
        """Append positions: sample ids and their cells."""
        self._files[IDS].write(ids)
        self._files[CELLS].write(cells)

    def steps(self, plan_SC: npt.NDArray[Any], counts_SC: npt.NDArray[Any]) -> None:
        """Append rows of the plan, real and whole."""
        self._files[PLAN].write(plan_SC)
        self._files[COUNTS].write(counts_SC)

    def __enter__(self) -> OrderWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def finish(self) -> dict[str, Any]:
        """Close the files; return the facts that opening needs."""
        self._stack.close()
        blocks = write_blocks(self._draft.path, self._files)
        self._draft.entries.update({name: writer.entry for name, writer in self._files.items()})
        return {
            "blocks": blocks,
            "id_dtype": self._files[IDS].dtype.str,
            "cell_dtype": self._files[CELLS].dtype.str,
        }


def composed(
    deal: Deal,
    counts_SC: npt.NDArray[np.int32],
    key: int,
    workers: int,
    turn_C: npt.NDArray[np.int64] = NO_TURNS,
) -> Iterator[tuple[Ids, npt.NDArray[Any]]]:
    """Yield pieces of (sample ids, cells) in training order. The pieces do not change the result.

    Inside a step the cells are shuffled by a key of the step, so that every rank's part holds the same mix on average.
    In a sort the strata are shuffled so, and each one's cells keep to their turns (`turn_C`, see `compose_steps`).
    """
    from curriculum.kernels import compose_steps

    cells = counts_SC.shape[1]
    dtype = np.dtype(cell_dtype(cells))
    with ThreadPoolExecutor(workers) as pool:
        streams = deal.streams(pool)
        waiting: list[Future[tuple[Ids, npt.NDArray[Any]]]] = []

        def work(first: int, part_SC: npt.NDArray[np.int32], stream: Ids, start_C: npt.NDArray[np.int64]) -> Any:
            ids, labels = np.empty_like(stream), np.empty(len(stream), dtype=dtype)
            compose_steps(first, part_SC, stream, start_C, turn_C, np.uint64(key), ids, labels)
            return ids, labels

        rows = max(1, POSITIONS_AT_ONCE // max(1, int(counts_SC[0].sum())))
        for first in range(0, len(counts_SC), rows):
            part_SC = counts_SC[first : first + rows]
            count_C = part_SC.sum(axis=0, dtype=np.int64)
            start_C = np.cumsum(count_C) - count_C
            stream = np.empty(int(count_C.sum()), dtype=deal.id_dtype)
            for cell in np.flatnonzero(count_C):
                streams[cell].take(int(count_C[cell]), stream[start_C[cell] : start_C[cell] + count_C[cell]])
            waiting.append(pool.submit(work, first, part_SC, stream, start_C))
            if len(waiting) > workers:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()
