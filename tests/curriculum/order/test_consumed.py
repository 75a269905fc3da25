from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.order.consumed import CHUNK_POSITIONS, as_hex, joined, order_hash, stretch_hash
from curriculum.order.split import Split

WORD = 2**64 - 1


def plainly(ids, position=0):
    """The module's formula, in Python integers."""

    def mix64(value):
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & WORD
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB & WORD
        return value ^ (value >> 31)

    offset = 0x9E3779B97F4A7C15
    return sum(mix64(sample ^ mix64(p + offset & WORD)) for p, sample in enumerate(ids, start=position)) & WORD


def test_the_hash_is_what_the_formula_says_and_stays_so():
    ids = [3, 1, 4, 159, 2**40, 0]
    assert stretch_hash(np.array(ids), 5) == plainly(ids, 5)
    assert as_hex(order_hash(np.arange(10), 10)) == "991a74bb8494e254"
    assert as_hex(order_hash(np.arange(10), 0)) == "0" * 16


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 6), st.integers(1, 4), st.integers(1, 4), st.integers(1, 120), st.randoms())
def test_it_depends_neither_on_the_batch_nor_on_ranks_nor_on_who_comes_first(world, accumulation, micro, samples, turn):
    order = np.random.default_rng(samples).permutation(samples)
    split = Split(world * accumulation * micro, world, micro)
    parts = []
    for start in range(0, samples, split.batch_size):
        stop = min(start + split.batch_size, samples)
        for edges in split.edges(start, stop, np.arange(world)):
            parts += [stretch_hash(order[i:j], int(i)) for i, j in pairwise(edges)]
    turn.shuffle(parts)
    assert joined(*parts) == order_hash(order, samples) == plainly(order.tolist())


def test_every_change_of_one_id_and_every_exchange_of_two_is_seen():
    order = np.random.default_rng(1).permutation(40)
    seen = {order_hash(order, len(order))}
    for i in range(40):
        for j in range(i):
            exchanged = order.copy()
            exchanged[[i, j]] = order[[j, i]]
            seen.add(order_hash(exchanged, len(order)))
        for id_ in range(40):
            changed = order.copy()
            changed[i] = id_
            seen.add(order_hash(changed, len(order)))
    assert len(seen) == 1 + 40 * 39 // 2 + 40 * 39


@pytest.mark.parametrize("cursor", [0, 1, CHUNK_POSITIONS - 1, CHUNK_POSITIONS, 2 * CHUNK_POSITIONS + 3])
def test_chunks_do_not_show(cursor):
    order = np.random.default_rng(2).permutation(3 * CHUNK_POSITIONS).astype(np.uint32)
    assert order_hash(order, cursor) == stretch_hash(order[:cursor].astype(np.int64), 0)
