"""A deal is a uniform permutation of each cell's samples, or a sort with its ties in random order."""

from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import numpy as np
import pytest

from curriculum.arrange import deal as module
from curriculum.arrange.deal import Deal, item_dtype
from curriculum.arrange.kernels import break_ties, restore_ids
from curriculum.artifact.spool import Spool

NO_TIMES, NO_KEYS = np.zeros(0, np.uint8), np.zeros(0, np.uint32)


@pytest.fixture
def dealt(tmp_path, monkeypatch):
    """Deal the samples of some cells; return every cell's ids in order."""
    monkeypatch.setattr(module, "GROUP", 8)
    monkeypatch.setattr(module, "LEAF", 3)

    def make(cell_N, seed=0, uses=(1,), sorts=0, key_N=NO_KEYS, times_N=NO_TIMES, chunk=7, held=1 << 20):
        cell_N, uses_C = np.asarray(cell_N, np.uint8), np.array(uses, np.int64)
        most = max(1, uses_C.max()) * (times_N.max() if len(times_N) else 1)
        with Spool(tmp_path, "deal", item_dtype(sorts), len(cell_N) * most, held) as spool:
            deal = Deal(uses_C, len(cell_N), most, seed=seed, sorts=sorts, spool=spool)
            for first in range(0, len(cell_N), chunk):
                here = slice(first, first + chunk)
                deal.add(deal.deal(first, cell_N[here], times_N[here], key_N[here]))
            with ThreadPoolExecutor(1) as pool:
                result = []
                for stream, count in zip(deal.streams(pool), deal.counts_CU.sum(axis=1), strict=True):
                    out = np.empty(count, np.uint32)
                    stream.take(int(count) // 2, out[: count // 2])
                    stream.take(int(count) - int(count) // 2, out[count // 2 :])
                    result.append(out.tolist())
            return result

    return make


def chi_square(counts):
    mean = counts.sum() / counts.size
    return ((counts - mean) ** 2 / mean).sum()


def test_every_sample_is_as_likely_at_every_position_and_neighbours_are_parted_as_chance_would(dealt):
    samples, tries = 24, 1500
    counts, follows = np.zeros((samples, samples)), np.zeros((samples, samples))
    for seed in range(tries):
        order = dealt([0] * samples, seed)[0]
        counts[np.arange(samples), order] += 1
        follows[order[:-1], order[1:]] += 1
    freedom = (samples - 1) ** 2
    # Four groups of two or four leaves each. Six standard deviations on either side.
    assert abs(chi_square(counts) - freedom) < 6 * np.sqrt(2 * freedom)
    pairs = follows[~np.eye(samples, dtype=bool)]
    assert abs(chi_square(pairs) - len(pairs)) < 6 * np.sqrt(2 * len(pairs))


@pytest.mark.parametrize("leaf", [1, 2, 100])
def test_all_orders_of_a_few_samples_come_up_alike(dealt, monkeypatch, leaf):
    monkeypatch.setattr(module, "LEAF", leaf)
    counts = dict.fromkeys(permutations(range(4)), 0)
    for seed in range(2400):
        counts[tuple(dealt([0] * 4, seed)[0])] += 1
    assert min(counts.values()) > 0
    assert chi_square(np.array(list(counts.values()))) < 23 + 6 * np.sqrt(46)


def test_cells_uses_chunks_and_spools_keep_every_sample(dealt):
    cell_N = np.random.default_rng(0).choice([0, 1, 2, 255], 200, p=[0.6, 0.2, 0.1, 0.1])
    first = dealt(cell_N, uses=(1, 3, 0))
    assert first == dealt(cell_N, uses=(1, 3, 0), chunk=64, held=0)
    assert sorted(first[0]) == np.flatnonzero(cell_N == 0).tolist()
    once = np.flatnonzero(cell_N == 1).tolist()
    passes = [first[1][start : start + len(once)] for start in range(0, 3 * len(once), len(once))]
    assert [sorted(part) for part in passes] == [once] * 3
    assert passes[0] != passes[1] != passes[2] != passes[0]
    assert first[2] == []


def test_times_multiply_uses(dealt):
    times_N = np.array([1, 2, 1, 3], np.uint8)
    assert sorted(dealt([0, 0, 1, 1], uses=(2, 1), times_N=times_N)[0]) == [0, 0, 1, 1, 1, 1]
    assert sorted(dealt([0, 0, 1, 1], uses=(2, 1), times_N=times_N)[1]) == [2, 3, 3, 3]


@pytest.mark.parametrize("sorts", [1, -1])
def test_a_sorted_deal_is_a_sort_and_ties_follow_the_seed(dealt, sorts):
    rng = np.random.default_rng(1)
    key_N, cell_N = rng.integers(0, 20, 150).astype(np.uint32), rng.integers(0, 2, 150)
    made = [dealt(cell_N, seed, uses=(1, 1), sorts=sorts, key_N=key_N) for seed in (0, 0, 1)]
    assert made[0] == made[1] != made[2]
    for cell, ids in enumerate(made[0]):
        assert sorted(ids) == np.flatnonzero(cell_N == cell).tolist()
        assert (np.diff(sorts * key_N[ids].astype(np.int64)) >= 0).all()
        assert ids != sorted(ids, key=lambda sample: (sorts * int(key_N[sample]), sample))


def test_distinct_scores_are_sorted_alike_for_every_seed(dealt):
    key_N = np.random.default_rng(2).permutation(np.arange(1 << 31, (1 << 31) + 90, dtype=np.uint32))
    for seed in range(3):
        assert dealt([0] * 90, seed, sorts=1, key_N=key_N)[0] == np.argsort(key_N).tolist()


def test_tied_samples_come_in_every_order_alike_and_each_use_in_its_own(dealt):
    counts = dict.fromkeys(permutations(range(3)), 0)
    for seed in range(1200):
        counts[tuple(dealt([0] * 3, seed, sorts=1, key_N=np.full(3, 7, np.uint32))[0])] += 1
    assert chi_square(np.array(list(counts.values()))) < 5 + 6 * np.sqrt(10)
    twice = dealt([0] * 60, uses=(2,), sorts=1, key_N=np.full(60, 7, np.uint32))[0]
    assert sorted(twice[:60]) == sorted(twice[60:]) == list(range(60))
    assert twice[:60] != twice[60:]


def test_the_words_of_ids_are_distinct_and_give_the_ids_back():
    ids = np.concatenate([np.arange(1 << 16), [(1 << 32) - 1, 1 << 31]]).astype(np.uint64)
    for key in (0, 1, 0xFFFFFFFFFFFFFFFF, 0x123456789ABCDEF0):
        words, back = ids.copy(), np.empty(len(ids), np.uint32)
        break_ties(words, np.uint64(key))
        assert len(np.unique(words)) == len(ids)
        assert int(words.max()) < 1 << 32
        restore_ids(words | np.uint64(5 << 32), np.uint64(key), back)
        assert (back == ids).all()
