import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from curriculum.plan import plan, real_plan, round_plan
from curriculum.preference import Pdpc


@st.composite
def wishes(draw):
    buckets = draw(st.integers(1, 6))
    counts = np.array(draw(st.lists(st.integers(0, 60), min_size=buckets, max_size=buckets)))
    if counts.sum() == 0:
        counts[0] = 1
    batch_size = draw(st.integers(1, 17))
    steps = -(-int(counts.sum()) // batch_size)
    seed = draw(st.integers(0, 2**32 - 1))
    affinity = np.random.default_rng(seed).uniform(0.05, 1.0, (steps, buckets)) ** draw(st.integers(0, 6))
    return affinity, batch_size, counts


@settings(max_examples=150, deadline=None, derandomize=True)
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


def test_even_wish_takes_every_bucket_evenly():
    whole = plan(np.ones((10, 2)), 4, [20, 20])
    assert (whole == 2).all()


@pytest.mark.parametrize("steepness", [1000, -1000])
def test_the_steepest_preference_is_all_but_a_sort(steepness):
    affinity = Pdpc(steepness=steepness).affinity((np.arange(625) + 0.5) / 625)
    whole = plan(affinity, 16, [5100, 4900])
    assert whole.sum(axis=0).tolist() == [5100, 4900]
    first, share = (whole[:, 0], 5100 / 10000) if steepness > 0 else (whole[:, 1], 4900 / 10000)
    middle = round(625 * share)
    assert (first[: middle - 20] == 16).all()
    assert (first[middle + 20 :] == 0).all()


@pytest.mark.parametrize(
    ("affinity", "batch_size", "counts", "message"),
    [
        (np.ones((3, 2)), 4, [6, 6, 6], "2"),
        (np.ones((2, 2)), 4, [6, 6], "make 3 steps, but affinity has 2 rows"),
        (np.ones((3, 2)), 0, [6, 6], "batch_size=0"),
        (np.ones((3, 2)), 4, [-6, 18], "negative"),
        (np.array([[1, 1], [np.nan, 1], [1, 1]]), 4, [6, 6], "step 1 for bucket 0 is nan"),
        (np.array([[1, 0], [1, 0], [1, 0]]), 4, [6, 6], "bucket 1 has 6 samples, but no step wants it"),
        (np.array([[1, 1], [0, 0], [1, 1]]), 4, [6, 6], "step 1 wants no bucket"),
        (np.array([[1, 0], [1, 0], [1, 1.0]]), 4, [4, 8], "bucket 1 has 8 samples, but the steps that want it take"),
    ],
)
def test_bad_wishes_are_named(affinity, batch_size, counts, message):
    with pytest.raises(ValueError, match=message):
        plan(affinity, batch_size, counts)
