"""A plan's rows sum to batches, its columns to buckets, and it is never off the wish by a whole sample."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.arrange.plan import plan, real_plan, round_plan, scaled, step_sizes
from curriculum.preference import Pdpc, Tilt

EXAMPLES = settings().max_examples


def progress_of(total, batch_size):
    sizes = step_sizes(total, batch_size).astype(float)
    return sizes, np.concatenate([[0.0], np.cumsum(sizes)]) / total


@st.composite
def wishes(draw):
    buckets = draw(st.integers(1, 6))
    counts = np.array(draw(st.lists(st.integers(0, 60), min_size=buckets, max_size=buckets)))
    if counts.sum() == 0:
        counts[0] = 1
    batch_size = draw(st.integers(1, 17))
    steps = -(-int(counts.sum()) // batch_size)
    seed = draw(st.integers(0, 2**32 - 1))
    affinity = np.random.default_rng(seed).uniform(0.05, 1.0, (steps, buckets)) ** draw(st.integers(0, 100))
    return affinity, batch_size, counts


@settings(max_examples=10 * EXAMPLES)
@given(wishes())
def test_plan_keeps_rows_columns_and_running_deviation(wish):
    affinity, batch_size, counts = wish
    real = real_plan(affinity, batch_size, counts)
    whole = round_plan(real, batch_size, counts)
    assert (whole >= 0).all()
    assert (whole.sum(axis=0) == counts).all()
    assert (whole.sum(axis=1)[:-1] == batch_size).all()
    assert whole.sum(axis=1)[-1] == counts.sum() - batch_size * (len(whole) - 1)
    assert np.abs(np.cumsum(whole, axis=0) - np.cumsum(real, axis=0)).max() < 1 + 1e-6


def test_real_plan_is_a_scaling_of_the_wish():
    affinity = np.random.default_rng(1).uniform(0.1, 1.0, (10, 3))
    real = real_plan(affinity, 6, [20, 20, 20])
    ratio = real / affinity
    # A scaling is an outer product row * column, so every 2x2 minor of the ratio vanishes.
    minors = ratio[1:, 1:] * ratio[:-1, :-1] - ratio[1:, :-1] * ratio[:-1, 1:]
    assert np.abs(minors).max() < 1e-8


def test_the_real_plan_is_what_alternating_scaling_comes_to():
    rng = np.random.default_rng(2)
    affinity, counts = rng.uniform(0.0, 1.0, (30, 4)) ** 3, np.array([3, 60, 17, 40])
    expected = affinity.copy()
    for _ in range(20_000):
        expected *= (counts / expected.sum(axis=0))[None, :]
        expected *= (4 / expected.sum(axis=1))[:, None]
    assert np.allclose(real_plan(affinity, 4, counts), expected, atol=1e-8)


def test_even_wish_takes_every_bucket_evenly():
    whole = plan(np.ones((10, 2)), 4, [20, 20])
    assert (whole == 2).all()


def test_a_step_may_hold_fewer_samples_than_there_are_buckets():
    counts = np.arange(1, 101)
    whole = plan(np.ones((-(-5050 // 7), 100)), 7, counts)
    assert (whole.sum(axis=0) == counts).all()
    assert (whole.sum(axis=1)[:-1] == 7).all()
    even = np.outer(np.minimum(np.arange(1, len(whole) + 1) * 7, 5050) / 5050, counts)
    assert np.abs(np.cumsum(whole, axis=0) - even).max() < 1 + 1e-6


def test_a_batch_larger_than_the_corpus_is_one_step():
    assert plan(np.ones((1, 3)), 1000, [1, 0, 5]).tolist() == [[1, 0, 5]]


@pytest.mark.parametrize("steepness", [1000, -1000])
def test_the_steepest_preference_is_all_but_a_sort(steepness):
    counts = np.array([5100, 4900])
    sizes, progress = progress_of(10_000, 16)
    wish = Pdpc(steepness=steepness, floor=0, ceiling=1).log_wish(progress, counts, ["low", "high"])
    whole = round_plan(scaled(wish, sizes, counts), 16, counts)
    assert whole.sum(axis=0).tolist() == [5100, 4900]
    first, share = (whole[:, 0], 5100 / 10000) if steepness > 0 else (whole[:, 1], 4900 / 10000)
    middle = round(625 * share)
    assert (first[: middle - 20] == 16).all()
    assert (first[middle + 20 :] == 0).all()


@settings(max_examples=5 * EXAMPLES)
@given(
    steepness=st.floats(-10_000, 10_000),
    counts=st.lists(st.integers(0, 80), min_size=2, max_size=6).filter(any),
    batch_size=st.integers(1, 30),
)
def test_any_wish_above_zero_can_be_met_however_steep(steepness, counts, batch_size):
    counts = np.array(counts)
    sizes, progress = progress_of(int(counts.sum()), batch_size)
    wish = Tilt(steepness=steepness, buckets=len(counts)).log_wish(progress, counts, [])
    real = scaled(wish, sizes, counts)
    assert np.allclose(real.sum(axis=0), counts, atol=1e-4)
    assert np.allclose(real.sum(axis=1), sizes)
    ends = np.cumsum(real, axis=0)
    if steepness > 0:  # at every moment the lower bucket is further along than the higher one
        parts = ends[:, counts > 0] / counts[counts > 0]
        assert (np.diff(parts, axis=1) <= 1e-5).all()


@pytest.mark.parametrize(
    ("affinity", "batch_size", "counts", "message"),
    [
        (np.ones((3, 2)), 4, [6, 6, 6], r"affinity has shape \(3, 2\), but there are 3 buckets"),
        (np.ones((2, 2)), 4, [6, 6], "make 3 steps, but affinity has 2 rows"),
        (np.ones((3, 2)), 0, [6, 6], "batch_size=0"),
        (np.ones((3, 2)), -4, [6, 6], "batch_size=-4"),
        (np.ones((3, 2)), 4, [-6, 18], "negative"),
        (np.ones((0, 2)), 4, [0, 0], "0 samples in batches of 4"),
        (np.array([[1, 1], [np.nan, 1], [1, 1]]), 4, [6, 6], "step 1 for bucket 0 is nan"),
        (np.array([[1, 1], [1, -1], [1, 1]]), 4, [6, 6], "step 1 for bucket 1 is -1"),
        (np.array([[1, 1], [1, 1], [np.inf, 1]]), 4, [6, 6], "step 2 for bucket 0 is inf"),
        (np.array([[1, 0], [1, 0], [1, 0]]), 4, [6, 6], "bucket 1 has 6 samples, but no step wants it"),
        (np.array([[1, 1], [0, 0], [1, 1]]), 4, [6, 6], "step 1 of 3 wants no bucket that has samples"),
        (np.array([[1, 1], [0, 1], [1, 1]]), 4, [12, 0], "step 1 of 3 wants no bucket that has samples"),
        (
            np.array([[1, 0], [1, 0], [1, 1.0]]),
            4,
            [4, 8],
            r"bucket 1 has 8 samples, but the 1 steps that want it \(from step 2 to 2 of 3\) can take at most 4",
        ),
    ],
)
def test_bad_wishes_are_named(affinity, batch_size, counts, message):
    with pytest.raises(ValueError, match=message):
        plan(affinity, batch_size, counts)


def test_a_message_calls_a_bucket_by_its_name():
    wish = np.log(np.array([[1.0, 1e-300], [1.0, 1e-300]]))
    wish[:, 1] = -np.inf
    with pytest.raises(ValueError, match="bucket high of web has 2 samples, but no step wants it"):
        scaled(wish, np.array([2.0, 2.0]), np.array([2, 2]), ["low of web", "high of web"])
