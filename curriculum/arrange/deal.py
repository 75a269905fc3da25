"""The deal: put each cell's samples in a keyed random order (or in the order of their scores), in bounded memory.

Two passes, the way to shuffle more cards than a hand holds (Rao, 1961; Sandelius, 1962): the first deals the samples
into groups by 16 bits of a keyed hash, into a spool; the second takes one group at a time and shuffles it (Fisher and
Yates), split into leaves that fit a core's cache if the group does not. The permutation is uniform, and the same for
any chunking and number of workers: group, leaf and swaps depend only on the key, the sample and the cell's count.

The spool holds what is needed to recover a sample's id: its place in a block of 65,535 samples, two bytes. A sorted
order spools the score's key and a keyed word of the id, eight bytes: equal scores come in an order that depends on the
seed, not on the corpus.

Shapes: N samples of a chunk, C cells, U uses (repetitions), G groups, B blocks of a chunk.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from curriculum.artifact.spool import Spool
from curriculum.order.permutation import key_of, mix64
from curriculum.work.threads import Buffers

Ids = npt.NDArray[np.unsignedinteger[Any]]
Array = npt.NDArray[Any]

GROUP = 1 << 18
"""Approximate minimum of samples per group, for cells of equal size: 1 MiB of ids, which fit a core's cache."""
GROUPS = 1 << 10
"""Approximate maximum of groups over all cells, as long as a few per cell fit in memory."""
HELD_SAMPLES = 1 << 26
"""Approximate maximum of samples in the groups that are shuffled ahead, over all cells."""
LEAF = 1 << 19
"""Approximate maximum of samples per leaf."""
MOST_BITS = 14
MOST_USES = 255


@dataclass(frozen=True)
class Groups:
    """The groups of each use of each cell: 2^bits, starting at `first_CU`. Their sizes are not known yet."""

    bits: int
    first_CU: npt.NDArray[np.int64]
    total: int

    @classmethod
    def of(cls, samples: int, cells: int, uses: int, *, whole_cells: bool) -> Groups:
        """Choose the groups for `samples` samples; one per cell if cells must stay together."""
        size = max(GROUP, min(samples // GROUPS, HELD_SAMPLES // (cells * (1 + Stream.AHEAD))))
        bits = 0 if whole_cells else min(_bits(samples // cells, size), MOST_BITS)
        return cls(bits, np.arange(cells * uses).reshape(cells, uses) << bits, cells * uses << bits)


def _bits(count: int, size: int) -> int:
    """Return the smallest b with count / 2^b at most `size`."""
    return max(0, (-(-count // size) - 1).bit_length())


@dataclass(frozen=True)
class Dealt:
    """A chunk sorted by group: its items for the spool, and how many each block contributes to each group, [G, B]."""

    first: int
    items: Array
    counts_GB: npt.NDArray[np.uint16]


class Deal:
    """Deals out samples: `add` chunks of cells, then take each cell's samples in order from its stream."""

    def __init__(
        self, uses_C: npt.NDArray[np.int64], samples: int, most_uses: int, *, seed: int, sorts: int, spool: Spool
    ) -> None:
        """Deal at most `samples` samples, each uses_C times as often as it may be used, at most `most_uses` times.

        `spool` holds items of `item_dtype(sorts)`, and has space for every use of every sample. `sorts` is 0, or the
        sign of the sort direction.
        """
        cells, uses = len(uses_C), max(1, most_uses)
        self.uses_C, self.sorts = uses_C, sorts
        self.id_dtype = np.dtype(np.uint32 if samples <= 1 << 32 else np.uint64)
        self.groups = Groups.of(samples, cells, uses, whole_cells=sorts != 0)
        self._keys_U, self._tie_keys_U = (
            np.array([key_of(seed, name, use) for use in range(uses)], dtype=np.uint64) for name in ("deal", "tie")
        )
        self._shuffle_keys_CU, self._leaf_keys_CU = (
            np.array(
                [[key_of(seed, name, cell * (MOST_USES + 1) + use) for use in range(uses)] for cell in range(cells)],
                dtype=np.uint64,
            )
            for name in ("shuffle", "leaf")
        )
        self._total_G = np.zeros(self.groups.total, dtype=np.int64)
        self._spool = spool
        self._chunks: list[tuple[int, npt.NDArray[np.int64], npt.NDArray[np.uint16]]] = []
        self._numbers, self._places = Buffers(np.uint32), Buffers(np.uint16)
        self.ids = Buffers(self.id_dtype)
        """Buffers for the arrays that `shuffled` returns."""

    def deal(self, first: int, cell_N: Ids, times_N: npt.NDArray[np.uint8], key_N: npt.NDArray[np.uint32]) -> Dealt:
        """Sort a chunk by group; pass the results to `add` in chunk order. May run on many threads.

        `cell_N` holds cells, and its dtype's maximum for samples that are left out; `times_N` is empty if every
        sample is used as often as its cell says; `key_N` matters only to a sorted order.
        """
        from curriculum.arrange.kernels import BLOCK, deal_chunk

        samples = len(cell_N)
        uses = len(self._keys_U)
        group_UN = self._numbers.lend(uses * samples).reshape(uses, samples)
        places = self._places.lend(uses * samples)
        counts_GB = np.empty((self.groups.total, -(-samples // BLOCK)), dtype=np.uint16)
        total = deal_chunk(
            first,
            cell_N,
            np.iinfo(cell_N.dtype).max,
            times_N,
            self.uses_C,
            self.groups.bits,
            self.groups.first_CU,
            self._keys_U,
            group_UN,
            places,
            counts_GB,
        )
        self._numbers.give_back(group_UN)
        places = places[:total]
        return Dealt(first, self._with_keys(first, places, counts_GB, key_N) if self.sorts else places, counts_GB)

    def add(self, dealt: Dealt) -> None:
        """Store a dealt chunk; chunks must be added in order."""
        counts_G = dealt.counts_GB.sum(axis=1, dtype=np.int64)
        self._total_G += counts_G
        ends_G = np.cumsum(counts_G)
        self._chunks.append((dealt.first, len(self._spool) + np.concatenate(([0], ends_G)), dealt.counts_GB))
        self._spool.append(dealt.items)
        if not self.sorts:
            self._places.give_back(dealt.items)

    @property
    def counts_CU(self) -> npt.NDArray[np.int64]:
        """Return how many samples of each cell were dealt more than u times, [C, U]."""
        counts_CU: npt.NDArray[np.int64] = self._total_G.reshape(*self.groups.first_CU.shape, -1).sum(axis=2)
        return counts_CU

    def streams(self, pool: ThreadPoolExecutor) -> list[Stream]:
        """Return a stream of each cell's samples in order. All chunks must have been added."""
        self._index = self._indexed()
        return [Stream(self, cell, pool) for cell in range(len(self.uses_C))]

    def shuffled(self, cell: int, use: int, number: int) -> Ids:
        """Return one group of one use of a cell in its final order."""
        from curriculum.arrange.kernels import restore_ids, shuffle_group, shuffle_leaves

        group = int(self.groups.first_CU[cell, use]) + number
        if self.sorts:
            bounds = self._index[1][:, group : group + 2].tolist()
            items = np.concatenate([self._spool.read(start, stop) for start, stop in bounds])
            items.sort()
            ids = np.empty(len(items), dtype=self.id_dtype)
            restore_ids(items, self._tie_keys_U[use], ids)
            return ids
        ids = self._ids_of(group)
        with np.errstate(over="ignore"):
            key = mix64(self._shuffle_keys_CU[cell, use : use + 1] + np.uint64(number))[0]
        leaf_bits = min(_bits(len(ids), LEAF), 16)
        if leaf_bits == 0:
            shuffle_group(ids, key)
            return ids
        out = self.ids.lend(len(ids))
        shuffle_leaves(ids, key, self._leaf_keys_CU[cell, use], leaf_bits, out)
        self.ids.give_back(ids)
        return out

    def _ids_of(self, group: int) -> Ids:
        """Return a group's ids in rising order."""
        from curriculum.arrange.kernels import undeal

        first_P, starts_PG, counts_PGB = self._index
        count_P = starts_PG[:, group + 1] - starts_PG[:, group]
        ids = self.ids.lend(int(count_P.sum()))
        held = int(np.searchsorted(starts_PG[:, -1], len(self._spool.held), side="right"))
        done = undeal(first_P[:held], starts_PG[:held, group], self._spool.held, counts_PGB[:held, group], ids)
        if held < len(first_P):
            start_P = np.cumsum(count_P[held:]) - count_P[held:]
            places = self._places.lend(int(count_P[held:].sum()))
            for place, (start, stop) in zip(
                start_P.tolist(), starts_PG[held:, group : group + 2].tolist(), strict=True
            ):
                self._spool.read(start, stop, places[place:])
            undeal(first_P[held:], start_P, places, counts_PGB[held:, group], ids[done:])
            self._places.give_back(places)
        return ids

    def _indexed(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint16]]:
        """Return the first sample of P chunks, their groups' spool offsets [P, G + 1] and block counts [P, G, B]."""
        counts = [counts_GB for _, _, counts_GB in self._chunks]
        counts_PGB = np.zeros((len(counts), self.groups.total, counts[0].shape[1]), dtype=np.uint16)
        for chunk, counts_GB in enumerate(counts):
            counts_PGB[chunk, :, : counts_GB.shape[1]] = counts_GB
        index = np.array([first for first, _, _ in self._chunks]), np.stack([starts for _, starts, _ in self._chunks])
        self._chunks.clear()
        return *index, counts_PGB

    def _with_keys(
        self, first: int, places: Ids, counts_GB: npt.NDArray[np.uint16], key_N: npt.NDArray[np.uint32]
    ) -> npt.NDArray[np.uint64]:
        """Return (key, word of the id) of a chunk's places, as sort keys; equal keys come in a random order."""
        from curriculum.arrange.kernels import break_ties, undeal

        ids = np.empty(len(places), dtype=np.uint64)
        ends_G = np.zeros(len(counts_GB) + 1, dtype=np.int64)
        for group, count_B in enumerate(counts_GB):
            done = ends_G[group]
            ends_G[group + 1] = done + undeal(
                np.array([first]), ends_G[group : group + 1], places, count_B[None], ids[done:]
            )
        key = key_N if self.sorts > 0 else ~key_N
        items: npt.NDArray[np.uint64] = key[ids - np.uint64(first)].astype(np.uint64) << np.uint64(32)
        for group in range(len(counts_GB)):
            break_ties(ids[ends_G[group] : ends_G[group + 1]], self._tie_keys_U[group % len(self._tie_keys_U)])
        items |= ids
        return items


def item_dtype(sorts: int) -> npt.DTypeLike:
    """Return the dtype of the items that a deal spools."""
    return np.uint64 if sorts else np.uint16


class Stream:
    """One cell's samples in order; the next groups are shuffled ahead of time on the pool."""

    AHEAD = 2

    def __init__(self, deal: Deal, cell: int, pool: ThreadPoolExecutor) -> None:
        self._todo = deque(
            (cell, use, number)
            for use in np.flatnonzero(deal.counts_CU[cell]).tolist()
            for number in range(1 << deal.groups.bits)
        )
        self._deal, self._pool = deal, pool
        self._waiting: deque[Future[Ids]] = deque()
        self._now = self._group = deal.ids.lend(0)

    def take(self, count: int, out: Ids) -> None:
        """Write the next `count` ids into `out`."""
        place = 0
        while place < count:
            if not len(self._now):
                while self._todo and len(self._waiting) < self.AHEAD:
                    self._waiting.append(self._pool.submit(self._deal.shuffled, *self._todo.popleft()))
                self._deal.ids.give_back(self._group)
                self._now = self._group = self._waiting.popleft().result()
                continue
            part = self._now[: count - place]
            out[place : place + len(part)] = part
            self._now = self._now[len(part) :]
            place += len(part)
