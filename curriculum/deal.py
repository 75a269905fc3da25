"""The deal: every cell's samples into a keyed random order (or into the order of their scores), in bounded memory.

Two passes, as one shuffles more cards than a hand holds (Rao, 1961; Sandelius, 1962): the first deals the samples into
groups by the upper bits of a keyed hash, into a spool; the second takes one group after the other, deals it on into
leaves that fit a core's cache, and shuffles each leaf (Fisher and Yates). A uniform permutation, the same for any chunk
and number of workers: group, leaf and swaps follow from key, sample and the cell's count alone.

Shapes: N samples of a chunk, C cells, U uses (times over), G groups.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curriculum.permutation import key_of, mix64
from curriculum.spool import Spool

Ids = npt.NDArray[np.unsignedinteger[Any]]

GROUP = 1 << 17
"""Samples of a group, about: 512 KiB of ids, which a core's cache holds."""
MOST_GROUPS = 1 << 9
"""Groups of a use of a cell, about: groups of a larger one are larger, and are dealt on into leaves."""
LEAF = 1 << 17
"""Samples of a leaf, about."""


@dataclass(frozen=True)
class Groups:
    """Which groups each use of each cell has: `first_CU` and `bits_CU`, 2^bits groups; `leaf_bits_CU` inside them."""

    first_CU: npt.NDArray[np.int64]
    bits_CU: npt.NDArray[np.int64]
    leaf_bits_CU: npt.NDArray[np.int64]
    total: int

    @classmethod
    def of(cls, counts_CU: npt.NDArray[np.int64], *, whole_cells: bool) -> Groups:
        """Choose the groups for the samples of each use of each cell; one a cell where it must stay together."""
        bits_CU = np.minimum(_bits(counts_CU, GROUP), _bits(np.array(MOST_GROUPS), 1)) * (not whole_cells)
        leaf_bits_CU = np.minimum(_bits(counts_CU >> bits_CU, LEAF), 16)
        sizes = (1 << bits_CU).ravel()
        first_CU = (np.cumsum(sizes) - sizes).reshape(counts_CU.shape)
        return cls(first_CU, bits_CU, leaf_bits_CU, int(sizes.sum()))


def _bits(counts: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    """Return the least b with counts / 2^b at most `size`."""
    bits: npt.NDArray[np.int64] = np.ceil(np.log2(np.maximum(counts, 1) / size)).astype(np.int64)
    return np.maximum(bits, 0)


class Deal:
    """Deals samples out: `add` chunks of cells, then `take` each cell's samples in their order."""

    def __init__(
        self,
        counts_CU: npt.NDArray[np.int64],
        uses_C: npt.NDArray[np.int64],
        *,
        seed: int,
        sorts: int,
        id_dtype: npt.DTypeLike,
        spool: Spool,
    ) -> None:
        cells, uses = counts_CU.shape
        self.counts_CU, self.uses_C, self.sorts = counts_CU, uses_C, sorts
        self.id_dtype = np.dtype(id_dtype)
        self.groups = Groups.of(counts_CU, whole_cells=sorts != 0)
        self.keys_U = np.array([key_of(seed, "deal", use) for use in range(uses)], dtype=np.uint64)
        self._leaf_keys_CU = np.array(
            [[key_of(seed, "leaf", cell * uses + use) for use in range(uses)] for cell in range(cells)], dtype=np.uint64
        )
        self._spool = spool
        self._ends: list[npt.NDArray[np.int64]] = []

    def deal(
        self, first: int, cell_N: Ids, times_N: npt.NDArray[np.uint8], key_N: npt.NDArray[np.uint32]
    ) -> tuple[Ids, npt.NDArray[np.int64]]:
        """Sort a chunk by group; hand the result to `add` in the order of the chunks. May run on many threads.

        `cell_N` holds cells, and the largest number of its type for what is left out; `times_N` is empty where every
        sample is used as its cell says; `key_N` matters to a sorted order alone.
        """
        from curriculum.kernels import deal_chunk

        most = int(self.uses_C.max(initial=1)) * (int(times_N.max(initial=1)) if len(times_N) else 1)
        ids = np.empty(len(cell_N) * max(1, most), dtype=self.id_dtype)
        counts_G = np.zeros(self.groups.total, dtype=np.int64)
        total = deal_chunk(
            first,
            cell_N,
            np.iinfo(cell_N.dtype).max,
            times_N,
            self.uses_C,
            self.groups.bits_CU,
            self.groups.first_CU,
            self.keys_U,
            ids,
            counts_G,
        )
        ids = ids[:total]
        if self.sorts:
            key = key_N if self.sorts > 0 else ~key_N
            upper = key[ids.astype(np.int64) - first].astype(np.uint64) << np.uint64(32)
            return upper | ids.astype(np.uint64), counts_G
        return ids, counts_G

    def add(self, ids: Ids, counts_G: npt.NDArray[np.int64]) -> None:
        """Keep a dealt chunk; chunks come in their order."""
        self._spool.append(ids)
        self._ends.append(np.concatenate(([0], np.cumsum(counts_G))))

    def streams(self, pool: ThreadPoolExecutor) -> list[Stream]:
        """Return every cell's samples in their order, as streams to take from."""
        return [Stream(self, cell, pool) for cell in range(len(self.counts_CU))]

    def shuffled(self, cell: int, use: int, number: int) -> Ids:
        """Return one group of a use of a cell in its final order."""
        from curriculum.kernels import shuffle_group

        group = int(self.groups.first_CU[cell, use]) + number
        pieces = [
            self._spool.read(piece, int(ends_G[group]), int(ends_G[group + 1]))
            for piece, ends_G in enumerate(self._ends)
            if ends_G[group] < ends_G[group + 1]
        ]
        ids = np.concatenate(pieces) if pieces else np.zeros(0, dtype=self._spool.dtype)
        if self.sorts:
            return (np.sort(ids) & np.uint64(0xFFFFFFFF)).astype(self.id_dtype)
        out = np.empty_like(ids)
        with np.errstate(over="ignore"):
            leaf_key = mix64(self._leaf_keys_CU[cell, use : use + 1] + np.uint64(number))[0]
        bits, leaf_bits = int(self.groups.bits_CU[cell, use]), int(self.groups.leaf_bits_CU[cell, use])
        shuffle_group(ids, self.keys_U[use], leaf_key, bits, leaf_bits, out)
        return out


class Stream:
    """One cell's samples in their order; the next groups are shuffled ahead, on the pool."""

    AHEAD = 2

    def __init__(self, deal: Deal, cell: int, pool: ThreadPoolExecutor) -> None:
        groups = deal.groups
        self._todo = deque(
            (cell, use, number)
            for use in range(deal.counts_CU.shape[1])
            if deal.counts_CU[cell, use]
            for number in range(1 << int(groups.bits_CU[cell, use]))
        )
        self._deal, self._pool = deal, pool
        self._waiting: deque[Future[Ids]] = deque()
        self._now: Ids = np.zeros(0, dtype=deal.id_dtype)

    def take(self, count: int, out: Ids) -> None:
        """Write the next `count` ids into `out`."""
        place = 0
        while place < count:
            if not len(self._now):
                while self._todo and len(self._waiting) < self.AHEAD:
                    self._waiting.append(self._pool.submit(self._deal.shuffled, *self._todo.popleft()))
                self._now = self._waiting.popleft().result()
                continue
            part = self._now[: count - place]
            out[place : place + len(part)] = part
            self._now = self._now[len(part) :]
            place += len(part)
