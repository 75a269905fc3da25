"""The loops over every sample, compiled: cut, deal, shuffle, compose. They release the interpreter's lock.

Shapes: N samples of a chunk, P parts of a cut so far, C cells (a cell is a bucket of a stratum), U uses, G groups of a
deal, S steps. All randomness is keyed hashes, so that no result depends on chunks, workers or machines. Importing this
module imports Numba (0.4 s); the first call of a kernel on a machine compiles it (seconds), later ones load it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

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
"""Group of a use that there is not."""


def compiled(function: F) -> F:
    """Compile a loop; keep the machine code on disk where there is a place for it."""
    try:
        return cast(F, njit(nogil=True, cache=True)(function))
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return cast(F, njit(nogil=True)(function))


@compiled
def _mix(value: np.uint64) -> np.uint64:  # SplitMix64's finaliser; permutation.mix64 is the same for arrays
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@compiled
def _hash(sample: int, key: np.uint64) -> np.uint64:
    return _mix((np.uint64(sample) + np.uint64(1)) * GOLDEN + key)


@compiled
def _next(state: np.uint64) -> np.uint64:  # Knuth's linear congruence modulo 2^64; its upper bits are the good ones
    return state * np.uint64(6364136223846793005) + np.uint64(1442695040888963407)


@compiled
def _bounded(state: np.uint64, size: int) -> np.int64:  # a number below `size`, from the upper half of the state
    return np.int64(((state >> np.uint64(32)) * np.uint64(size)) >> np.uint64(32))


@compiled
def sortable(score_N: U32, key_N: U32) -> None:
    """Write uint32 keys [N] that rise with the float32 scores whose bits `score_N` (uint32) holds; -0 counts as 0."""
    sign = np.uint32(0x80000000)
    for i in range(len(score_N)):
        bits = score_N[i]
        if bits == sign:
            bits = np.uint32(0)
        key_N[i] = ~bits if bits & sign else bits | sign


@compiled
def high_histogram(key_N: U32, weight_N: I64, part_N: U16, weights_PH: I64) -> None:
    """Add each sample's weight to its part's bin of the key's upper 16 bits, unless its part is LEFT_OUT."""
    for i in range(len(key_N)):
        if part_N[i] != LEFT_OUT:
            weights_PH[part_N[i], key_N[i] >> np.uint32(HIGH_BITS)] += weight_N[i]


@compiled
def low_histogram(key_N: U32, weight_N: I64, part_N: U16, row_PH: I32, weights_RL: I64) -> None:
    """Add each sample's weight to the bin of its key's lower 16 bits, where row_PH gives its upper bin a row."""
    for i in range(len(key_N)):
        if part_N[i] != LEFT_OUT:
            row = row_PH[part_N[i], key_N[i] >> np.uint32(HIGH_BITS)]
            if row >= 0:
                weights_RL[row, key_N[i] & np.uint32(0xFFFF)] += weight_N[i]


@compiled
def refine(key_N: U32, edges_PE: U32, part_N: U16) -> None:
    """Cut every part: part = part * (E + 1) + the number of its edges below the key (an equal key goes below)."""
    edges = edges_PE.shape[1]
    for i in range(len(key_N)):
        part = part_N[i]
        if part == LEFT_OUT:
            continue
        low = 0
        if edges <= 8:  # no branches to guess wrongly
            for edge in range(edges):
                low += edges_PE[part, edge] < key_N[i]
        else:
            high = edges
            while low < high:
                middle = (low + high) // 2
                if edges_PE[part, middle] < key_N[i]:
                    low = middle + 1
                else:
                    high = middle
        part_N[i] = np.uint16(part * (edges + 1) + low)


@compiled
def count_ids(ids: I64, times_N: NDArray[np.uint8]) -> None:
    """Add one to the times of every id, 255 at most."""
    for i in range(len(ids)):
        if times_N[ids[i]] < 255:
            times_N[ids[i]] += 1


@compiled
def count_cells(cell_N: Ids, left_out: int, times_N: NDArray[np.uint8], counts_CT: I64) -> None:
    """Count the samples of every cell by the times that they may be used (an empty `times_N`: once each)."""
    once = len(times_N) == 0
    for i in range(len(cell_N)):
        if cell_N[i] != left_out:
            counts_CT[cell_N[i], 1 if once else times_N[i]] += 1


@compiled
def deal_chunk(
    first: int,
    cell_N: Ids,
    left_out: int,
    times_N: NDArray[np.uint8],
    uses_C: I64,
    bits_CU: I64,
    group_CU: I64,
    keys_U: U64,
    ids: Ids,
    counts_G: I64,
) -> int:
    """Sort a chunk's samples by group into `ids`, rising inside a group; counts_G says how many each has.

    Sample first + i belongs to cell_N[i] and is used uses_C[cell] * times_N[i] times (an empty `times_N`: once each);
    samples of cell `left_out` are passed over. Use u of cell c goes to group group_CU[c, u] + the upper bits_CU[c, u]
    bits of its hash under keys_U[u]. Return how many ids were written.
    """
    samples, most = len(cell_N), len(keys_U)
    once = len(times_N) == 0
    group_UN = np.empty((most, samples), np.uint32)
    for use in range(most):
        shift_C = (63 - bits_CU[:, use]).astype(np.uint64)
        first_C = group_CU[:, use].astype(np.uint64)
        key = keys_U[use]
        for i in range(samples):  # without branches: this loop is vectorised
            there = cell_N[i] != left_out
            cell = cell_N[i] if there else 0
            uses = uses_C[cell] * (1 if once else times_N[i])
            group = first_C[cell] + ((_hash(first + i, key) >> np.uint64(1)) >> shift_C[cell])
            group_UN[use, i] = group if there and uses > use else NOWHERE
    counts_G[:] = 0
    for use in range(most):
        for i in range(samples):
            if group_UN[use, i] != NOWHERE:
                counts_G[group_UN[use, i]] += 1
    place_G = np.empty(len(counts_G), np.int64)
    total = 0
    for number in range(len(counts_G)):
        place_G[number] = total
        total += counts_G[number]
    for use in range(most):
        for i in range(samples):
            number = group_UN[use, i]
            if number != NOWHERE:
                ids[place_G[number]] = first + i
                place_G[number] += 1
    return total


@compiled
def shuffle_group(ids: Ids, key: np.uint64, leaf_key: np.uint64, group_bits: int, leaf_bits: int, out: Ids) -> None:
    """Shuffle one group uniformly into `out`: deal it to leaves by the hash's next bits, then Fisher and Yates.

    A leaf fits a core's cache. `ids` rise; the hash is that of `deal_chunk`, whose upper `group_bits` chose the group.
    """
    leaves = 1 << leaf_bits
    end = np.zeros(leaves + 1, np.int64)
    shift, mask = np.uint64(64 - group_bits - leaf_bits), np.uint64(leaves - 1)
    if leaf_bits == 0:
        out[: len(ids)] = ids
        end[1] = len(ids)
    else:
        leaf_N = np.empty(len(ids), np.uint16)
        for i in range(len(ids)):
            leaf_N[i] = (_hash(ids[i], key) >> shift) & mask
            end[leaf_N[i] + 1] += 1
        for leaf in range(leaves):
            end[leaf + 1] += end[leaf]
        place = end[:-1].copy()
        for i in range(len(ids)):
            out[place[leaf_N[i]]] = ids[i]
            place[leaf_N[i]] += 1
    for leaf in range(leaves):
        start = end[leaf]
        state = _mix(leaf_key + np.uint64(leaf) * GOLDEN)
        for i in range(end[leaf + 1] - start - 1, 0, -1):
            state = _next(state)
            j = _bounded(state, i + 1)
            out[start + i], out[start + j] = out[start + j], out[start + i]


@compiled
def compose_steps(
    first_step: int, counts_SC: I32, stream: Ids, start_C: I64, turn_C: I64, key: np.uint64, ids: Ids, cells: Ids
) -> None:
    """Write the positions of some steps: each step's cells in an order shuffled by its number, ids from the streams.

    stream[start_C[c]:] are the ids that cell c gives next; counts_SC how many each step takes. `turn_C` is empty, or
    the place of each cell's turn in a sort, stratum by stratum: (place of its stratum's first turn) << 32 | its own.
    Then a stratum's cells stand in their turns at the positions that the shuffle gave the stratum.
    """
    place_C = start_C.copy()
    cell_of_turn_C, now_C, left_C = np.empty_like(turn_C), np.empty_like(turn_C), np.empty_like(turn_C)
    for cell in range(len(turn_C)):
        cell_of_turn_C[turn_C[cell] & 0xFFFFFFFF] = cell
    position = 0
    for step in range(len(counts_SC)):
        start = position
        for cell in range(counts_SC.shape[1]):
            for _ in range(counts_SC[step, cell]):
                cells[position] = cell
                position += 1
        state = _mix(key + np.uint64(first_step + step) * GOLDEN)
        for i in range(position - start - 1, 0, -1):
            state = _next(state)
            j = _bounded(state, i + 1)
            cells[start + i], cells[start + j] = cells[start + j], cells[start + i]
        if len(turn_C):
            for cell in range(len(turn_C)):
                left_C[cell] = counts_SC[step, cell]
                now_C[cell] = cell
            for i in range(start, position):
                stratum = turn_C[cells[i]] >> 32
                while left_C[cell_of_turn_C[now_C[stratum]]] == 0:
                    now_C[stratum] += 1
                cells[i] = cell_of_turn_C[now_C[stratum]]
                left_C[cells[i]] -= 1
        for i in range(start, position):
            cell = cells[i]
            ids[i] = stream[place_C[cell]]
            place_C[cell] += 1


@compiled
def round_rows(target_SC: F64, counts_C: I64, room_S: I64, noise: float, result_SC: I32) -> int:
    """Round the cumulative real plan by earliest deadline first (plan.round_plan); return the step that fails, or -1.

    A cell's pointer walks to the step at which its next sample must have been taken.
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
