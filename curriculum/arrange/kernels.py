"""The compiled per-sample loops: cut, deal, shuffle, compose. They release the GIL.

They share one file because Numba's cache works by file: any change here recompiles all of them.

Shapes: N samples of a chunk, P parts of a cut so far, C cells (a cell is a bucket within a stratum), U uses, G groups
of a deal, S steps. All randomness is keyed hashes, so no result depends on chunks, workers or machines. Importing this
module imports Numba (0.4 s); the first call of a kernel on a machine compiles it (seconds), later ones load it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from numba import njit
from numba.core import config as numba_config
from numpy.typing import NDArray

numba_config._config_fname = os.devnull  # not .numba_config.yaml in the current folder: it may name a cache to run
numba_config.reload_config()

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Callable[..., Any])
U16: TypeAlias = NDArray[np.uint16]
U32: TypeAlias = NDArray[np.uint32]
U64: TypeAlias = NDArray[np.uint64]
I32: TypeAlias = NDArray[np.int32]
I64: TypeAlias = NDArray[np.int64]
F64: TypeAlias = NDArray[np.float64]
Ids: TypeAlias = NDArray[np.unsignedinteger[Any]]

HIGH_BITS = 16
GOLDEN = np.uint64(0x9E3779B97F4A7C15)
LEFT_OUT = np.uint16(0xFFFF)
"""Cell of a sample that no step reads."""
NOWHERE = np.uint32(0xFFFFFFFF)
"""Group of a use that does not exist."""
DRAWS = 1 << 10
"""Random numbers drawn per batch."""
BLOCK = (1 << 16) - 1
"""Samples per block of the deal: a place in it fits in 16 bits, and so does a count."""


def compiled(function: F) -> F:
    """Compile a loop; cache the machine code on disk if a cache folder is writable."""
    try:
        return cast(F, njit(nogil=True, cache=True)(function))
    except RuntimeError:  # neither the package's folder nor the user's cache is writable
        return cast(F, njit(nogil=True)(function))


@compiled
def _mix(value: np.uint64) -> np.uint64:  # SplitMix64's finaliser; permutation.mix64 is the same for arrays
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@compiled
def _lanes(first: int, key: np.uint64, hash_Q: U64, lane_N: U16) -> None:
    """Write 16 random bits for each of N samples from `first` on, four per hash. Q is at least N / 4 + 2."""
    start, skipped = np.uint64((first >> 2) + 1) * GOLDEN + key, first & 3
    for q in range(len(hash_Q)):  # vectorised
        hash_Q[q] = _mix(np.uint64(q) * GOLDEN + start)
    lanes = hash_Q.view(np.uint16)
    for i in range(len(lane_N)):
        lane_N[i] = lanes[skipped + i]


@compiled
def _shuffle(values_N: Ids, key: np.uint64) -> None:
    """Shuffle in place, uniformly (Fisher and Yates; Durstenfeld, 1964).

    Numbers below a bound are drawn by multiplying and shifting 32 bits (Lemire, arXiv 1805.10941), without his
    rejection step: the relative error of a probability is at most N / 2^32. Unsigned indices avoid the check for
    negative ones.
    """
    drawn_D = np.empty(DRAWS + 1, np.uint32)
    size, first = len(values_N), np.uint64(0)
    while size > 1:
        draws = min(size - 1, DRAWS)
        half = (draws + 1) >> 1
        for d in range(half):  # vectorised: each half of a hash gives one draw
            bits = _mix(key + (first + np.uint64(d)) * GOLDEN)
            drawn_D[d] = np.uint32(((bits >> np.uint64(32)) * np.uint64(size - d)) >> np.uint64(32))
            low = bits & np.uint64(0xFFFFFFFF)
            drawn_D[half + d] = np.uint32((low * np.uint64(size - half - d)) >> np.uint64(32))
        last = np.uint64(size - 1)
        for d in range(draws):
            other = np.uint64(drawn_D[d])
            held = values_N[last]
            values_N[last] = values_N[other]
            values_N[other] = held
            last -= np.uint64(1)
        size -= draws
        first += np.uint64(half)


@compiled
def _key(bits: np.uint32) -> np.uint32:
    """Return a key that rises with the float32 score that has these bits; -0 counts as 0."""
    sign = np.uint32(0x80000000)
    bits = np.uint32(0) if bits == sign else bits
    return bits ^ np.uint32(np.uint32(0) - (bits >> np.uint32(31)) | sign)  # branch-free: signs are unpredictable


@compiled
def sortable(bits_N: U32, key_N: U32) -> None:
    """Write uint32 keys [N] that rise with the float32 scores whose bits are `bits_N`; -0 counts as 0."""
    for i in range(len(bits_N)):
        key_N[i] = _key(bits_N[i])


@compiled
def all_finite(bits_N: U32) -> bool:
    """Return whether none of the float32 with these bits is infinite or NaN."""
    exponent = np.uint32(0x7F800000)
    found = 0
    for i in range(len(bits_N)):  # no early exit, so that it is vectorised
        found |= (bits_N[i] & exponent) == exponent
    return found == 0


@compiled
def high_histogram(bits_N: U32, weight_N: I64, part_N: U16, weights_PH: I64) -> None:
    """Add each sample's weight to its part's bin for the key's upper 16 bits, unless its part is LEFT_OUT."""
    for i in range(len(bits_N)):
        if part_N[i] != LEFT_OUT:
            weights_PH[part_N[i], _key(bits_N[i]) >> np.uint32(HIGH_BITS)] += weight_N[i]


@compiled
def low_histogram(bits_N: U32, weight_N: I64, part_N: U16, row_PH: I32, weights_RL: I64) -> None:
    """Add each sample's weight to the bin for its key's lower 16 bits, if row_PH assigns its upper bin a row."""
    for i in range(len(bits_N)):
        if part_N[i] != LEFT_OUT:
            key = _key(bits_N[i])
            row = row_PH[part_N[i], key >> np.uint32(HIGH_BITS)]
            if row >= 0:
                weights_RL[row, key & np.uint32(0xFFFF)] += weight_N[i]


@compiled
def refine(bits_N: U32, edges_PE: U32, part_N: U16) -> None:
    """Cut every part: part = part * (E + 1) + the number of its edges below the key (an equal edge is not)."""
    parts, edges = edges_PE.shape
    if edges <= 8:  # branch-free and edge by edge, so that it is vectorised
        low_N = np.empty(min(len(bits_N), 4096), np.uint16)
        for first in range(0, len(bits_N), len(low_N)):
            part_B, bits_B = part_N[first : first + len(low_N)], bits_N[first : first + len(low_N)]
            low_N[:] = 0
            for edge in range(edges):
                if parts == 1:
                    for i in range(len(part_B)):
                        low_N[i] += edges_PE[0, edge] < _key(bits_B[i])
                else:
                    for i in range(len(part_B)):
                        low_N[i] += edges_PE[0 if part_B[i] == LEFT_OUT else part_B[i], edge] < _key(bits_B[i])
            for i in range(len(part_B)):
                part = np.uint16(part_B[i] * np.uint16(edges + 1) + low_N[i])
                part_B[i] = LEFT_OUT if part_B[i] == LEFT_OUT else part
        return
    for i in range(len(bits_N)):
        part = part_N[i]
        if part == LEFT_OUT:
            continue
        key = _key(bits_N[i])
        low, high = 0, edges
        while low < high:
            middle = (low + high) // 2
            if edges_PE[part, middle] < key:
                low = middle + 1
            else:
                high = middle
        part_N[i] = np.uint16(part * (edges + 1) + low)


@compiled
def count_ids(ids: I64, times_N: NDArray[np.uint8]) -> None:
    """Count each id in `times_N`, up to 255."""
    for i in range(len(ids)):
        if times_N[ids[i]] < 255:
            times_N[ids[i]] += 1


@compiled
def hash_of_set(ids: NDArray[np.integer[Any]]) -> np.uint64:
    """Return the hash of ids in any order: `curriculum.order.contents.hash_of_set`, compiled."""
    total = np.uint64(0)
    for i in range(len(ids)):
        total += _mix(np.uint64(ids[i]) ^ GOLDEN)
    return total


@compiled
def deal_chunk(
    first: int,
    cell_N: Ids,
    left_out: int,
    times_N: NDArray[np.uint8],
    uses_C: I64,
    bits: int,
    group_CU: I64,
    keys_U: U64,
    group_UN: U32,
    places: U16,
    counts_GB: U16,
) -> int:
    """Sort a chunk's samples by group, rising within a group; return how many `places` were written.

    Sample first + i belongs to cell_N[i] and is used uses_C[cell] * times_N[i] times (an empty `times_N`: once each);
    samples of cell `left_out` are skipped. Use u of cell c goes to group group_CU[c, u] + the upper `bits`
    of 16 random bits under keys_U[u]. The value written is the sample's place in its block of BLOCK samples of the
    chunk; counts_GB is how many samples each block contributes to each group. `group_UN` is scratch space.
    """
    samples, most = len(cell_N), len(keys_U)
    groups, blocks = counts_GB.shape
    hash_Q, lane_N = np.empty(samples // 4 + 2, np.uint64), np.empty(samples, np.uint16)
    for use in range(most):
        _lanes(first, keys_U[use], hash_Q, lane_N)
        shift_C, first_C = np.full(left_out + 1, 16, np.uint32), np.full(left_out + 1, NOWHERE, np.uint32)
        for cell in range(len(uses_C)):
            if len(times_N) or uses_C[cell] > use:
                shift_C[cell], first_C[cell] = 16 - bits, group_CU[cell, use]
        for i in range(samples):  # branch-free
            group_UN[use, i] = first_C[cell_N[i]] + (np.uint32(lane_N[i]) >> shift_C[cell_N[i]])
        for i in range(len(times_N)):
            if cell_N[i] != left_out and uses_C[cell_N[i]] * times_N[i] <= use:
                group_UN[use, i] = NOWHERE
    place_G = np.zeros(groups + 1, np.uint64)
    count_G = np.empty(groups, np.uint32)
    for block in range(blocks):
        count_G[:] = 0
        for use in range(most):
            for i in range(block * BLOCK, min(samples, (block + 1) * BLOCK)):
                if group_UN[use, i] != NOWHERE:
                    count_G[group_UN[use, i]] += np.uint32(1)
        for group in range(groups):
            counts_GB[group, block] = count_G[group]
            place_G[group + 1] += count_G[group]
    for group in range(groups):
        place_G[group + 1] += place_G[group]
    total = place_G[groups]
    for block in range(blocks):
        for use in range(most):
            group_B = group_UN[use, block * BLOCK : min(samples, (block + 1) * BLOCK)]
            for i in range(len(group_B)):
                group = group_B[i]
                if group != NOWHERE:
                    place = place_G[group]
                    places[place] = i
                    place_G[group] = place + np.uint64(1)
    return int(total)


@compiled
def undeal(first_P: I64, start_P: I64, places: U16, counts_PB: U16, ids: Ids) -> int:
    """Write the ids of a group that was dealt from P chunks; return how many. The inverse of `deal_chunk`.

    Chunk p begins at sample first_P[p], and its places in the group at places[start_P[p]].
    """
    total = np.uint64(0)
    for chunk in range(len(first_P)):
        place = np.uint64(start_P[chunk])
        for block in range(counts_PB.shape[1]):
            start = first_P[chunk] + block * BLOCK
            for i in range(np.uint64(counts_PB[chunk, block])):
                ids[total + i] = start + places[place + i]
            place += np.uint64(counts_PB[chunk, block])
            total += np.uint64(counts_PB[chunk, block])
    return int(total)


@compiled
def shuffle_group(ids: Ids, key: np.uint64) -> None:
    """Shuffle a group in place, uniformly."""
    _shuffle(ids, key)


@compiled
def shuffle_leaves(ids: Ids, key: np.uint64, leaf_key: np.uint64, leaf_bits: int, out: Ids) -> None:
    """Shuffle a group uniformly into `out`: deal it into 2^leaf_bits leaves that fit a core's cache, shuffle each."""
    end = np.zeros((1 << leaf_bits) + 1, np.int64)
    leaf_N = np.empty(len(ids), np.uint16)
    for i in range(len(ids)):  # vectorised
        leaf_N[i] = _mix((np.uint64(ids[i]) + np.uint64(1)) * GOLDEN + leaf_key) >> np.uint64(64 - leaf_bits)
    for i in range(len(ids)):
        end[leaf_N[i] + 1] += 1
    for leaf in range(1 << leaf_bits):
        end[leaf + 1] += end[leaf]
    place = end[:-1].copy()
    for i in range(len(ids)):
        out[place[leaf_N[i]]] = ids[i]
        place[leaf_N[i]] += 1
    for leaf in range(1 << leaf_bits):
        _shuffle(out[end[leaf] : end[leaf + 1]], _mix(key + np.uint64(leaf) * GOLDEN))


@compiled
def break_ties(words: U64, key: np.uint64) -> None:
    """Replace 32-bit ids by keyed 32-bit words, one to one: sorted by them, equal scores come in a random order.

    A 32-bit finaliser (Wellons' lowbias32) with a key added before and exclusive-or'ed in the middle.
    """
    first, second = np.uint32(key & np.uint64(0xFFFFFFFF)), np.uint32(key >> np.uint64(32))
    for i in range(len(words)):  # vectorised
        word = np.uint32(np.uint32(words[i]) + first)
        word ^= word >> np.uint32(16)
        word = np.uint32(word * np.uint32(0x7FEB352D)) ^ second
        word ^= word >> np.uint32(15)
        word = np.uint32(word * np.uint32(0x846CA68B))
        words[i] = word ^ (word >> np.uint32(16))


@compiled
def restore_ids(words: U64, key: np.uint64, ids: Ids) -> None:
    """Write the ids of which the lower 32 bits of `words` were made: the inverse of `break_ties`."""
    first, second = np.uint32(key & np.uint64(0xFFFFFFFF)), np.uint32(key >> np.uint64(32))
    for i in range(len(words)):  # vectorised
        word = np.uint32(words[i] & np.uint64(0xFFFFFFFF))
        word ^= word >> np.uint32(16)
        word = np.uint32(word * np.uint32(0x43021123))
        word ^= (word >> np.uint32(15)) ^ (word >> np.uint32(30))
        word = np.uint32((word ^ second) * np.uint32(0x1D69E2A5))
        word ^= word >> np.uint32(16)
        ids[i] = np.uint32(word - first)


@compiled
def compose_steps(
    first_step: int, counts_SC: I32, stream: Ids, start_C: I64, turn_C: I64, key: np.uint64, ids: Ids, cells: Ids
) -> None:
    """Write the positions of some steps: each step's samples, shuffled with a key that includes the step number.

    stream[start_C[c]:] are the next ids of cell c; counts_SC is how many each step takes. `turn_C` is empty, or holds
    each cell's turn in a sort, counted stratum by stratum: (first turn of its stratum) << 32 | (turn of the cell).
    Then a stratum's cells come in the order of their turns, each with its ids in order, at the positions that the
    shuffle gave the stratum.
    """
    next_C = start_C.copy()
    largest = counts_SC.sum(axis=1).max()
    taken, label = np.empty(largest, ids.dtype), np.empty(largest, cells.dtype)
    slot = np.empty(largest, np.uint32)
    first = 0
    for step in range(len(counts_SC)):
        size = 0
        for cell in range(counts_SC.shape[1]):
            count, place = counts_SC[step, cell], next_C[cell]
            taken[size : size + count] = stream[place : place + count]
            label[size : size + count] = cell
            next_C[cell] += count
            size += count
        for i in range(size):
            slot[i] = i
        _shuffle(slot[:size], _mix(key + np.uint64(first_step + step) * GOLDEN))
        ids_B, cells_B = ids[first : first + size], cells[first : first + size]
        for i in range(size):
            ids_B[i] = taken[slot[i]]
            cells_B[i] = label[slot[i]]
        if len(turn_C):
            _take_turns(counts_SC[step], taken, turn_C, ids_B, cells_B)
        first += size


@compiled
def _take_turns(count_C: I32, taken: Ids, turn_C: I64, ids_B: Ids, cells_B: Ids) -> None:
    """Put a step's cells in the order of their turns within their stratum, and each one's ids in `taken` order."""
    cell_of_turn_C, now_C = np.empty_like(turn_C), np.empty_like(turn_C)
    left_C, next_C = np.empty_like(turn_C), np.empty_like(turn_C)
    place = 0
    for cell in range(len(turn_C)):
        cell_of_turn_C[turn_C[cell] & 0xFFFFFFFF] = cell
        now_C[cell], left_C[cell], next_C[cell] = cell, count_C[cell], place
        place += count_C[cell]
    for i in range(len(cells_B)):
        stratum = turn_C[cells_B[i]] >> 32
        while left_C[cell_of_turn_C[now_C[stratum]]] == 0:
            now_C[stratum] += 1
        cell = cell_of_turn_C[now_C[stratum]]
        left_C[cell] -= 1
        cells_B[i] = cell
        ids_B[i] = taken[next_C[cell]]
        next_C[cell] += 1


@compiled
def round_rows(target_SC: F64, counts_C: I64, room_S: I64, noise: float, result_SC: I32) -> int:
    """Round the cumulative real-valued plan, earliest deadline first (plan.round_plan); return the failing step, or -1.

    Each cell's pointer advances to the step by which its next sample must have been taken.
    """
    steps, cells = target_SC.shape
    taken_C = np.zeros(cells, np.int64)
    due_C = np.zeros(cells, np.int64)
    for step in range(steps):
        spare = room_S[step]
        for cell in range(cells):
            must = min(np.int64(np.floor(target_SC[step, cell] + noise)), counts_C[cell])
            take = max(must - taken_C[cell], 0)
            result_SC[step, cell] = take
            taken_C[cell] += take
            spare -= take
        if spare < 0:
            return step
        while spare > 0:
            best, best_due = -1, steps + 1
            for cell in range(cells):
                may = min(np.int64(np.ceil(target_SC[step, cell] - noise)), counts_C[cell])
                if may <= taken_C[cell]:
                    continue
                due = max(due_C[cell], step)
                while (
                    due < steps
                    and min(np.int64(np.floor(target_SC[due, cell] + noise)), counts_C[cell]) <= taken_C[cell]
                ):
                    due += 1
                due_C[cell] = due
                if due < best_due:
                    best, best_due = cell, due
            if best < 0:
                return step
            result_SC[step, best] += 1
            taken_C[best] += 1
            spare -= 1
    return -1


def _compiled_before() -> bool:
    folder = hash_of_set.stats.cache_path  # type: ignore[attr-defined]  # None without a writable folder
    return folder is not None and any(Path(folder).glob("kernels.*.nbi"))


if not _compiled_before():
    log.info("compiling the loops that make an order: a few seconds to a minute, once on a machine")
