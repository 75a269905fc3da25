"""A keyed permutation of 0 .. size - 1 that can be computed at any index, without a table."""

from __future__ import annotations

import numpy as np
import xxhash
from numpy.typing import NDArray

ROUNDS = 6


class KeyedPermutation:
    """A bijection of range(size), selected by a key: a Feistel network over an even number of bits, with cycle walking.

    `permutation(indices)` maps uint64 or int64 [n] to int64 [n] in O(n) time; the values do not depend on chunking, so
    an order can be written in pieces (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002). It is not
    cryptographically secure.
    """

    def __init__(self, size: int, key: int) -> None:
        if size < 1:
            raise ValueError(f"permutation: size={size} must be at least 1")
        self.size = size
        self.half_bits = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
        self.mask = np.uint64((1 << int(self.half_bits)) - 1)
        self.round_keys = mix64(
            np.arange(1, ROUNDS + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key % 2**64)
        )

    def __call__(self, indices: NDArray[np.integer]) -> NDArray[np.int64]:
        """Map indices in [0, size) to distinct values in [0, size)."""
        values = self._encrypt(np.asarray(indices).astype(np.uint64))
        outside = np.flatnonzero(values >= self.size)
        while len(outside):
            values[outside] = self._encrypt(values[outside])
            outside = outside[values[outside] >= self.size]
        return values.astype(np.int64)

    def _encrypt(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = values >> self.half_bits, values & self.mask
        for key in self.round_keys:
            left, right = right, left ^ (mix64(right + key) & self.mask)
        result: NDArray[np.uint64] = (left << self.half_bits) | right
        return result


def mix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the finaliser of SplitMix64 (Steele, Lea and Flood, 2014): a well-mixed bijection of 64-bit words."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


def key_of(seed: int, purpose: str, number: int = 0) -> int:
    """Return a 64-bit key for one use of randomness: a different one for each seed, purpose and number."""
    return xxhash.xxh3_64_intdigest(f"{seed}/{purpose}/{number}".encode())
