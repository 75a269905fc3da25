import numpy as np
import pytest

from curriculum.plan import real_plan
from curriculum.preference import Pdpc, Shuffled

PROGRESS = (np.arange(400) + 0.5) / 400


def test_pdpc_with_equal_buckets_is_the_logistic():
    share = real_plan(Pdpc(steepness=10).affinity(PROGRESS), 100, [20_000, 20_000])[:, 1] / 100
    assert np.abs(share - 1 / (1 + np.exp(-10 * (PROGRESS - 0.5)))).max() < 1e-6


def test_zero_steepness_is_flat_and_negative_is_reversed():
    assert np.allclose(Pdpc(steepness=0).affinity(PROGRESS), 0.5)
    assert np.allclose(Pdpc(steepness=-8).affinity(PROGRESS), Pdpc(steepness=8).affinity(PROGRESS)[:, ::-1])


def test_floor_and_ceiling_bound_the_share():
    share = Pdpc(steepness=50, floor=0.2, ceiling=0.8).affinity(PROGRESS)[:, 1]
    assert 0.2 <= share.min() < 0.2001
    assert 0.7999 < share.max() <= 0.8


@pytest.mark.parametrize("steepness", [1000, -1000])
def test_both_shares_stay_above_zero_at_the_steepest(steepness):
    affinity = Pdpc(steepness=steepness).affinity(np.linspace(0, 1, 101))
    assert (affinity > 0).all()
    assert np.allclose(affinity.sum(axis=1), 1)
    low, high = affinity.T
    assert np.allclose(low, high[::-1], rtol=1e-9, atol=0)


def test_shuffled_wants_its_one_bucket_always():
    assert (Shuffled().affinity(PROGRESS) == 1).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pdpc(floor=0.8, ceiling=0.2), "floor=0.8"),
        (lambda: Pdpc(buckets=3), "buckets=3"),
        (lambda: Pdpc(steepness=float("nan")), "steepness=nan"),
        (lambda: Pdpc(steepness=1000.5), r"steepness=1000\.5 must be a number from -1000 to 1000"),
        (lambda: Pdpc(steepness=float("-inf")), "steepness=-inf"),
        (lambda: Pdpc(score=""), "score=''"),
        (lambda: Shuffled(buckets=2, score="pd"), "buckets=2"),
    ],
)
def test_impossible_parameters_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
