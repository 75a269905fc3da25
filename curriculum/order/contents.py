"""What an order holds, in a few values by which runs are compared: how many samples, which, in what batches."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum.order.order import Order
from curriculum.order.permutation import mix64

SAMPLE_SET = "sample_set"
"""Fact of an ORDER that leaves samples out or repeats some: the hash of its samples, in any order."""
EVERY = "every sample once"
"""In its place for an order that does neither."""
SALT = np.uint64(0x9E3779B97F4A7C15)
CHUNK_IDS = 1 << 14


def contents_of(order: Order) -> dict[str, Any]:
    """Return an order's contents as JSON values, in O(1). `sample_set` is None for an order of an older PDPC."""
    facts = order.manifest.facts
    whole = facts["left_out"] == 0 and facts["repeated"] == 0
    return {
        "samples": order.samples,
        "different_samples": facts["different_samples"],
        "left_out": facts["left_out"],
        "repeated": facts["repeated"],
        SAMPLE_SET: EVERY if whole else facts.get(SAMPLE_SET),
        "batch_sizes": order.batch_sizes,
        "steps": order.steps,
        "seq_len": facts.get("seq_len"),
        "replanned_at": (facts.get("replanned_at") or {}).get("step"),
    }


def hash_of_set(ids: NDArray[np.integer]) -> int:
    """Return the hash of ids [n] in any order, in [0, 2**64): the sum of a word for each. O(n)."""
    total = 0
    for start in range(0, len(ids), CHUNK_IDS):
        words = mix64(ids[start : start + CHUNK_IDS].astype(np.uint64) ^ SALT)
        total += int(words.sum(dtype=np.uint64))
    return total % 2**64
