"""Exact token-weighted quantiles of scores, in passes over chunks: memory does not grow with the number of samples.

A float32 maps to a uint32 key that rises with it. One pass sums the tokens by the key's upper 16 bits, which finds the
bin of every edge; a second sums those bins by the lower 16 bits, which finds the edge itself. Sums are integers, so
neither chunks nor threads change a bit.

Shapes: N samples of a chunk, P parts, E edges of a part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from curriculum.work.threads import Sums, mapped

Keys = NDArray[np.uint32]
Bits = NDArray[np.uint32]

BINS = 1 << 16
ROWS_AT_ONCE = 512
"""Bins refined in one pass: 256 MiB of sums."""
PARTS_AT_ONCE = 256
"""Parts whose edges are found at once: 128 MiB of sums, twice."""
LEFT_OUT = 0xFFFF
"""Part of a sample that is not arranged."""


@dataclass(frozen=True)
class Scored:
    """A chunk: the bits of the float32 score, the weight and the part of every sample, [N]."""

    bits_N: Bits
    weight_N: NDArray[np.int64]
    part_N: NDArray[np.uint16]


Chunks = Callable[[], Iterator[Callable[[], Scored]]]


@dataclass(frozen=True)
class Edges:
    """Edges [P, E] of every part as keys, and which parts have too few distinct scores for them."""

    keys_PE: Keys
    poor_P: NDArray[np.bool_]


def bits_of(score_N: NDArray[np.float32]) -> Bits:
    """Return the bits of scores, without copying if they are contiguous."""
    return np.ascontiguousarray(score_N, dtype=np.float32).view(np.uint32)


def keys_of(score_N: NDArray[np.float32]) -> Keys:
    """Return uint32 keys that sort like the scores."""
    from curriculum.arrange.kernels import sortable

    key_N = np.empty(len(score_N), dtype=np.uint32)
    sortable(bits_of(score_N), key_N)
    return key_N


def scores_of(key_N: Keys) -> NDArray[np.float32]:
    """Return the scores of keys: the inverse of `keys_of`."""
    sign = np.uint32(1 << 31)
    return np.where(key_N & sign, key_N ^ sign, ~key_N).astype(np.uint32).view(np.float32)


def equal_parts(chunks: Chunks, inside: int, parts: int, workers: int = 1) -> Edges:
    """Return the edges that cut each of `inside` parts into `parts` parts of equal weight.

    `chunks` starts a pass: it yields functions that return a chunk's scores, which are called on `workers` threads.

    Edge j of a part is its smallest key at or below which at least j / parts of its weight lies. A part with too few
    distinct scores gets the largest possible key for every edge, so that it stays whole, in its first piece. Two
    passes per PARTS_AT_ONCE parts.
    """
    if inside <= PARTS_AT_ONCE:
        return _equal_parts(chunks, inside, parts, workers)
    groups = [
        _equal_parts(partial(_only, chunks, first), min(PARTS_AT_ONCE, inside - first), parts, workers)
        for first in range(0, inside, PARTS_AT_ONCE)
    ]
    keys_PE = np.concatenate([group.keys_PE for group in groups])
    return Edges(keys_PE, np.concatenate([group.poor_P for group in groups]))


def _only(chunks: Chunks, first: int) -> Iterator[Callable[[], Scored]]:
    """Yield chunks in which the PARTS_AT_ONCE parts from `first` on are numbered from 0, all others LEFT_OUT."""

    def renumbered(make: Callable[[], Scored]) -> Scored:
        chunk = make()
        part_N = chunk.part_N.astype(np.int64) - first
        inside_N = (part_N >= 0) & (part_N < PARTS_AT_ONCE) & (chunk.part_N != LEFT_OUT)
        return Scored(chunk.bits_N, chunk.weight_N, np.where(inside_N, part_N, LEFT_OUT).astype(np.uint16))

    return (partial(renumbered, make) for make in chunks())


def _summed(
    chunks: Chunks, add: Callable[[Scored, NDArray[np.int64]], None], shape: tuple[int, ...], workers: int
) -> NDArray[np.int64]:
    """Return the sums that `add` accumulates over a pass."""
    sums = Sums(shape)

    def work(make: Callable[[], Scored]) -> None:
        chunk = make()
        with sums.one() as array:
            add(chunk, array)

    list(mapped(work, chunks(), workers))
    return sums.total()


def _equal_parts(chunks: Chunks, inside: int, parts: int, workers: int) -> Edges:
    """Find the edges of a few parts: see `equal_parts`."""
    edges = parts - 1
    from curriculum.arrange.kernels import high_histogram

    upper_PH = _summed(
        chunks,
        lambda chunk, sums_PH: high_histogram(chunk.bits_N, chunk.weight_N, chunk.part_N, sums_PH),
        (inside, BINS),
        workers,
    )
    total_P = upper_PH.sum(axis=1)
    cumulative_PH = np.cumsum(upper_PH, axis=1)
    wanted_PE = np.arange(1, parts) * total_P[:, None]  # multiples of 1 / parts, as integers
    bin_PE = np.empty((inside, edges), dtype=np.int64)
    for part in range(inside):
        bin_PE[part] = np.searchsorted(cumulative_PH[part] * parts, wanted_PE[part], side="left")
    bin_PE = np.minimum(bin_PE, BINS - 1)
    pairs = sorted({(part, int(bin)) for part in range(inside) for bin in bin_PE[part] if total_P[part]})
    keys_PE = np.full((inside, edges), np.uint32(0xFFFFFFFF), dtype=np.uint32)
    for group in (pairs[start : start + ROWS_AT_ONCE] for start in range(0, len(pairs), ROWS_AT_ONCE)):
        row_PH = np.full((inside, BINS), -1, dtype=np.int32)
        for row, (part, bin) in enumerate(group):
            row_PH[part, bin] = row
        lower_RL = _summed(chunks, partial(_add_lower, row_PH), (len(group), BINS), workers)
        for row, (part, bin) in enumerate(group):
            below = cumulative_PH[part, bin] - upper_PH[part, bin]
            cumulative_L = (np.cumsum(lower_RL[row]) + below) * parts
            for edge in np.flatnonzero(bin_PE[part] == bin):
                low = int(np.searchsorted(cumulative_L, wanted_PE[part, edge], side="left"))
                keys_PE[part, edge] = np.uint32(bin << 16 | low)
    poor_P = (np.diff(keys_PE.astype(np.int64), axis=1) <= 0).any(axis=1) | (total_P == 0)
    poor_P |= _nothing_above(keys_PE, upper_PH, chunks)
    keys_PE[poor_P] = np.uint32(0xFFFFFFFF)
    return Edges(keys_PE, poor_P)


def _add_lower(row_PH: NDArray[np.int32], chunk: Scored, sums_RL: NDArray[np.int64]) -> None:
    from curriculum.arrange.kernels import low_histogram

    low_histogram(chunk.bits_N, chunk.weight_N, chunk.part_N, row_PH, sums_RL)


def _nothing_above(keys_PE: Keys, upper_PH: NDArray[np.int64], chunks: Chunks) -> NDArray[np.bool_]:
    """Return for each part whether no key lies above its last edge; takes a pass if that edge is in the last bin."""
    last_P = keys_PE[:, -1]
    highest_bin_P = np.array([np.flatnonzero(row)[-1] if row.any() else 0 for row in upper_PH])
    unsure_P = (last_P >> np.uint32(16)).astype(np.int64) >= highest_bin_P
    if not unsure_P.any():
        return unsure_P
    largest_P = np.zeros(len(keys_PE), dtype=np.uint32)
    for chunk in (make() for make in chunks()):
        for part in np.flatnonzero(unsure_P):
            mine = chunk.bits_N[chunk.part_N == part].view(np.float32)
            if len(mine):
                largest_P[part] = max(largest_P[part], keys_of(mine.max(keepdims=True))[0])
    return unsure_P & (last_P >= largest_P)
