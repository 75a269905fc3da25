"""The consumed hash: 64 bits that identify the samples read up to the cursor, and their order.

    hash = sum over positions p < cursor of mix64(id_p xor mix64(p + OFFSET)), modulo 2**64

Each position adds one word, so the hash is additive: batches, ranks and micro-batches may be hashed separately and in
any order. `mix64` is a bijection: one changed id always changes the hash; of other changes (swapped ids, a stretch of
another order) one in 2**64 goes undetected. It detects mistakes and damage; it is not a signature.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from curriculum.order.permutation import mix64
from curriculum.order.sampler import Ids

OFFSET = np.uint64(0x9E3779B97F4A7C15)
"""Keeps position 0 away from the fixed point of `mix64`."""
CHUNK_POSITIONS = 1 << 14
"""Small enough for the words of a chunk to stay in the CPU cache."""


def stretch_hash(ids: NDArray[np.integer], position: int) -> int:
    """Return the hash of ids [n] at consecutive positions starting at `position`, in [0, 2**64). O(n)."""
    positions = np.arange(position, position + len(ids), dtype=np.uint64)
    words = mix64(ids.astype(np.uint64) ^ mix64(positions + OFFSET))
    return int(words.sum(dtype=np.uint64))


def joined(*hashes: int) -> int:
    """Return the combined hash of stretches that do not overlap."""
    return sum(hashes) % 2**64


def order_hash(order: Ids, cursor: int) -> int:
    """Return the hash of an order's first `cursor` samples. O(cursor): tens of millions of positions per second."""
    assert 0 <= cursor <= len(order), f"cursor={cursor} is outside an order of {len(order)} samples"
    total = 0
    for start in range(0, cursor, CHUNK_POSITIONS):
        total = joined(total, stretch_hash(order[start : min(start + CHUNK_POSITIONS, cursor)], start))
    return total


def as_hex(value: int) -> str:
    """Return a hash as it is stored: 16 hex digits."""
    return f"{value:016x}"
