"""What each preference along a score wants: shares by step, from `log_wish`.

Shapes: S steps, K buckets.
"""

import numpy as np
import pytest

from curriculum.arrange.plan import scaled
from curriculum.preference import Frame, Linear, Pdpc, Sorted, Tilt, TwoStage

PROGRESS = np.linspace(0, 1, 401)
MIDDLE = (PROGRESS[1:] + PROGRESS[:-1]) / 2
HALVES = np.array([20_000, 20_000])
NAMES = ["low", "high"]


def shares(preference, counts=HALVES, progress=PROGRESS):
    """The wish as shares per step, [S, K]."""
    wish = preference.log_wish(progress, np.array(counts), NAMES)
    assert wish.shape == (len(progress) - 1, len(counts))
    shares = np.exp(wish - wish.max(axis=1, keepdims=True))
    return shares / shares.sum(axis=1, keepdims=True)


def planned(preference, counts=HALVES):
    """The share of every bucket in every step of the real-valued plan, [S, K]."""
    counts = np.array(counts)
    sizes = np.full(len(MIDDLE), counts.sum() / len(MIDDLE))
    return scaled(preference.log_wish(PROGRESS, counts, NAMES), sizes, counts) / sizes[:, None]


def test_pdpc_with_equal_buckets_is_the_logistic():
    logistic = 1 / (1 + np.exp(-10 * (MIDDLE - 0.5)))
    assert np.abs(planned(Pdpc(floor=0, ceiling=1))[:, 1] - logistic).max() < 1e-6
    assert np.abs(planned(Pdpc())[:, 1] - (0.2 + 0.6 * logistic)).max() < 1e-6


def test_pdpc_is_stratified_and_keeps_a_fifth_of_each_half_unless_told_otherwise():
    assert (Pdpc().stratify_by, Pdpc().floor, Pdpc().ceiling) == ("source", 0.2, 0.8)
    share = shares(Pdpc(steepness=100))[:, 1]
    assert 0.2 <= share.min() < 0.2001
    assert 0.7999 < share.max() <= 0.8


def test_zero_steepness_is_flat_and_negative_is_reversed():
    assert np.allclose(shares(Pdpc(steepness=0)), 0.5)
    assert np.allclose(shares(Pdpc(steepness=-8)), shares(Pdpc(steepness=8))[:, ::-1])
    assert np.allclose(shares(Tilt(steepness=0, buckets=5), [10] * 5), 0.2)
    assert np.allclose(shares(Tilt(steepness=-8), [9] * 8), shares(Tilt(steepness=8), [9] * 8)[:, ::-1])


@pytest.mark.parametrize("steepness", [10_000, -10_000])
def test_the_steepest_wishes_stay_finite_and_symmetric(steepness):
    wish = Pdpc(steepness=steepness, floor=0, ceiling=1).log_wish(PROGRESS, HALVES, NAMES)
    assert np.isfinite(wish).all()
    assert np.allclose(wish[:, 0], wish[::-1, 1])
    assert np.isfinite(Tilt(steepness=steepness).log_wish(PROGRESS, np.full(8, 10), NAMES)).all()


def test_a_tilt_of_two_buckets_is_a_logistic():
    share = planned(Tilt(buckets=2, steepness=10))[:, 1]
    assert np.abs(share - 1 / (1 + np.exp(-10 * (2 * MIDDLE - 1)))).max() < 1e-6


def test_linear_rises_in_a_straight_line():
    assert np.allclose(shares(Linear())[:, 1], MIDDLE)
    assert np.allclose(shares(Linear(floor=0.7, ceiling=0.3))[:, 1], 0.7 - 0.4 * MIDDLE)
    assert np.allclose(planned(Linear())[:, 1], MIDDLE, atol=1e-6)


def test_two_stages_switch_where_the_buckets_sizes_put_it():
    share = planned(TwoStage(), [10_000, 30_000])[:, 1]
    assert np.allclose(share[:100], 0)
    assert np.allclose(share[100:], 1)
    share = planned(TwoStage(floor=0.1, ceiling=0.9), [20_000, 20_000])[:, 1]
    assert np.allclose(share[:200], 0.1, atol=1e-6)
    assert np.allclose(share[200:], 0.9, atol=1e-6)


def test_the_step_that_the_switch_falls_into_has_the_mean_of_both_shares():
    share = shares(TwoStage(switch=0.35, floor=0.2, ceiling=0.6), progress=np.linspace(0, 1, 11))[:, 1]
    assert np.allclose(share, [0.2, 0.2, 0.2, 0.4, *[0.6] * 6])
    folded = shares(TwoStage(switch=0.5, floor=0.2, ceiling=0.6, folds=2), progress=np.linspace(0, 1, 9))[:, 1]
    assert np.allclose(folded, [0.2, 0.2, 0.6, 0.6] * 2)


def test_a_sort_wants_one_bucket_after_the_other():
    counts = np.array([30, 0, 50, 20])
    share = shares(Sorted(buckets=4), counts, np.linspace(0, 1, 11))
    assert share.argmax(axis=1).tolist() == [0] * 3 + [2] * 5 + [3] * 2
    assert np.allclose(share.max(axis=1), 1)
    down = shares(Sorted(buckets=4, descending=True), counts, np.linspace(0, 1, 11))
    assert down.argmax(axis=1).tolist() == [3] * 2 + [2] * 5 + [0] * 3


def test_a_sort_goes_through_its_folds_in_turn():
    down = Sorted(buckets=2, folds=2, descending=True)
    assert down.turns(4).tolist() == [1, 0, 3, 2]
    assert shares(down, [5] * 4, np.linspace(0, 1, 5)).argmax(axis=1).tolist() == [1, 0, 3, 2]


def test_frame_takes_its_quadrants_in_turn():
    share = shares(Frame(width=0.02), [100] * 4)
    assert (share.argmax(axis=1) + 1)[[0, 99, 101, 199, 201, 299, 301, 399]].tolist() == [3, 3, 4, 4, 1, 1, 2, 2]
    unequal = planned(Frame(width=0.02, sequence=[2, 1, 4, 3]), [4000, 12_000, 4000, 20_000])
    assert (unequal.argmax(axis=1) + 1)[[5, 110, 130, 150, 170, 210, 350, 390]].tolist() == [2, 2, 1, 1, 4, 4, 4, 3]


def test_folds_repeat_the_wish():
    once = shares(Pdpc(steepness=12), progress=np.linspace(0, 1, 101))
    thrice = shares(Pdpc(steepness=12, folds=3), progress=np.linspace(0, 1, 301))
    assert np.allclose(thrice, np.concatenate([once] * 3))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pdpc(floor=0.8, ceiling=0.2), "floor=0.8"),
        (lambda: Pdpc(floor=0.5, ceiling=0.5), "0 <= floor < ceiling <= 1"),
        (lambda: Pdpc(ceiling=1.5), "ceiling=1.5 must be between 0 and 1"),
        (lambda: Pdpc(floor=float("nan")), "floor=nan"),
        (lambda: Pdpc(buckets=3), "buckets=3: pdpc needs two buckets"),
        (lambda: Pdpc(edges=[1.0, 2.0]), "buckets=3: pdpc needs two buckets"),
        (lambda: Pdpc(steepness=float("nan")), "steepness=nan"),
        (lambda: Pdpc(steepness=10_000.5), r"steepness=10000\.5 must be a number from -10000 to 10000"),
        (lambda: Tilt(steepness=float("-inf")), "steepness=-inf"),
        (lambda: Pdpc(score=""), r"preference\.score is empty: pdpc needs a score to cut by"),
        (lambda: Tilt(buckets=1), "buckets=1 must be at least 2"),
        (lambda: Tilt(edges=[2.0, 1.0]), "must be finite and rising"),
        (lambda: Tilt(edges=[1.0, 1.0]), "must be finite and rising"),
        (lambda: Tilt(edges=[0.0, float("inf")]), "must be finite and rising"),
        (lambda: TwoStage(floor=0.5, ceiling=0.5), "use preference=shuffled"),
        (lambda: TwoStage(switch=1.0), r"switch=1\.0 must lie between 0 and 1"),
        (lambda: Frame(sequence=[1, 2, 3, 3]), r"sequence=\[1, 2, 3, 3\] must contain 1, 2, 3 and 4"),
        (lambda: Frame(width=0.0), r"width=0\.0 must be positive and finite"),
    ],
)
def test_impossible_parameters_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
