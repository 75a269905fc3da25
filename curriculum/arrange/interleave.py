"""Compose: turn the plan and each cell's dealt samples into the files of an ORDER.

Shapes: S steps, C cells.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import numpy as np
import numpy.typing as npt

from curriculum.arrange.deal import Deal, Ids
from curriculum.artifact.blocks import BlockWriter, write_blocks
from curriculum.artifact.create import Draft
from curriculum.order.consumed import as_hex, joined
from curriculum.order.contents import SAMPLE_SET
from curriculum.order.order import CELLS, COUNTS, IDS, PLAN
from curriculum.work.threads import Buffers

POSITIONS_AT_ONCE = 1 << 20
NO_TURNS = np.zeros(0, dtype=np.int64)


def id_dtype(largest: int) -> str:
    """Return the smallest dtype that holds every id: uint32 below 2^32, else uint64."""
    return "<u4" if largest < 1 << 32 else "<u8"


def cell_dtype(cells: int) -> str:
    """Return the smallest dtype that holds every cell number."""
    return "|u1" if cells <= 1 << 8 else "<u2"


class OrderWriter:
    """Appends to the files of an order with `positions` and `steps`; `finish` returns the facts for the manifest."""

    def __init__(self, draft: Draft, largest_id: int, cells: int, *, hashed: bool = False) -> None:
        """`hashed`: the order may leave samples out or repeat some, so its facts say which it holds."""
        self._draft = draft
        self._set: int | None = 0 if hashed else None
        self._stack = ExitStack()
        dtypes = {IDS: id_dtype(largest_id), CELLS: cell_dtype(cells), PLAN: "<f4", COUNTS: "<i4"}
        self._files = {
            name: self._stack.enter_context(BlockWriter(draft.path / name, dtype)) for name, dtype in dtypes.items()
        }

    def positions(self, ids: Ids | npt.NDArray[np.int64], cells: npt.NDArray[Any]) -> None:
        """Append positions: sample ids and their cells."""
        self._files[IDS].write(ids)
        self._files[CELLS].write(cells)
        if self._set is not None:
            from curriculum.arrange.kernels import hash_of_set

            self._set = joined(self._set, int(hash_of_set(ids)))

    def steps(self, plan_SC: npt.NDArray[Any], counts_SC: npt.NDArray[Any]) -> None:
        """Append rows of the plan, real-valued and integer."""
        self._files[PLAN].write(plan_SC)
        self._files[COUNTS].write(counts_SC)

    def __enter__(self) -> OrderWriter:
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def finish(self) -> dict[str, Any]:
        """Close the files; return the facts needed to open them."""
        self._stack.close()
        blocks = write_blocks(self._draft.path, {name: writer.hashes.digests for name, writer in self._files.items()})
        self._draft.entries.update({name: writer.hashes.entry for name, writer in self._files.items()})
        return {
            "blocks": blocks,
            "id_dtype": self._files[IDS].dtype.str,
            "cell_dtype": self._files[CELLS].dtype.str,
            **({SAMPLE_SET: as_hex(self._set)} if self._set is not None else {}),
        }


def composed(
    deal: Deal,
    counts_SC: npt.NDArray[np.int32],
    key: int,
    workers: int,
    turn_C: npt.NDArray[np.int64] = NO_TURNS,
    into: Ids | None = None,
) -> Iterator[tuple[Ids, npt.NDArray[Any]]]:
    """Yield pieces of (sample ids, cells) in training order, each valid until the next one.

    The piece size does not affect the result. `into` is an array for all ids, which then stay valid.

    Within a step the cells are shuffled with a key of the step, so that every rank's part holds the same mix on
    average. In a sort the strata are shuffled this way, and each stratum's cells keep their turns (`turn_C`, see
    `compose_steps`).
    """
    from curriculum.arrange.kernels import compose_steps

    cells = counts_SC.shape[1]
    labels, taken, composed_ids = Buffers(cell_dtype(cells)), Buffers(deal.id_dtype), Buffers(deal.id_dtype)
    waiting: deque[Future[tuple[Ids, npt.NDArray[Any]]]] = deque()

    def work(
        first: int, part_SC: npt.NDArray[np.int32], stream: Ids, start_C: npt.NDArray[np.int64], ids: Ids
    ) -> tuple[Ids, npt.NDArray[Any]]:
        label = labels.lend(len(stream))
        compose_steps(first, part_SC, stream, start_C, turn_C, np.uint64(key), ids, label)
        taken.give_back(stream)
        return ids, label

    def finished() -> Iterator[tuple[Ids, npt.NDArray[Any]]]:
        ids, label = waiting.popleft().result()
        yield ids, label
        labels.give_back(label)
        if into is None:
            composed_ids.give_back(ids)

    place = 0
    rows = max(1, POSITIONS_AT_ONCE // max(1, int(counts_SC[0].sum())))
    with ThreadPoolExecutor(workers) as pool:
        streams = deal.streams(pool)
        for first in range(0, len(counts_SC), rows):
            part_SC = counts_SC[first : first + rows]
            count_C = part_SC.sum(axis=0, dtype=np.int64)
            start_C, size = np.cumsum(count_C) - count_C, int(count_C.sum())
            stream = taken.lend(size)
            for cell in np.flatnonzero(count_C):
                streams[cell].take(int(count_C[cell]), stream[start_C[cell] : start_C[cell] + count_C[cell]])
            ids = composed_ids.lend(size) if into is None else into[place : place + size]
            place += size
            waiting.append(pool.submit(work, first, part_SC, stream, start_C, ids))
            if len(waiting) > workers:
                yield from finished()
        while waiting:
            yield from finished()
