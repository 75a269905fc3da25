"""A known odd and even effect is found, with intervals that contain it."""

import numpy as np
import pytest

from train.evaluation.answers import Items
from train.report.effects import odd_and_even
from train.report.intervals import Side, side_of

ODD, EVEN = -0.05, 0.02


def measured(shift, arm, seeds=4, count=300, noise=0.05):
    """Losses of one arm: items and seeds are shared by all arms, only `noise` is its own."""
    base = np.random.default_rng(0).gamma(4.0, 0.8, count)
    runs = []
    for seed in range(seeds):
        common = 0.05 * np.random.default_rng([1, seed]).normal()
        own = np.random.default_rng([3, arm, seed]).normal(0, noise, count)
        runs.append(Items(np.arange(count), base + common + shift + own, np.ones(count)))
    return side_of(runs)


def sides(**changes):
    return [measured(shift, arm, **changes) for arm, shift in enumerate((EVEN + ODD, EVEN - ODD, 0.0))]


def test_both_parts_are_found_with_their_intervals():
    odd, even = odd_and_even(*sides())
    assert odd.value == pytest.approx(ODD, abs=0.01)
    assert even.value == pytest.approx(EVEN, abs=0.01)
    for part, known in ((odd, ODD), (even, EVEN)):
        assert part.interval.low < known < part.interval.high
        assert part.interval.method == "items and seeds"
        assert part.interval.high - part.interval.low < 0.03, "what seeds and items have in common cancels"


def test_they_add_up_to_both_orders():
    order, mirrored, tied = sides()
    odd, even = odd_and_even(order, mirrored, tied)
    assert tied.means.mean() + even.value + odd.value == pytest.approx(order.means.mean())
    assert tied.means.mean() + even.value - odd.value == pytest.approx(mirrored.means.mean())
    back = odd_and_even(mirrored, order, tied)
    assert (back[0].value, back[1].value) == pytest.approx((-odd.value, even.value))


def test_without_noise_the_values_are_exact_and_one_seed_has_the_interval_of_its_items():
    odd, even = odd_and_even(*sides(noise=0.0))
    assert (odd.value, even.value) == pytest.approx((ODD, EVEN))
    odd, _ = odd_and_even(*sides(seeds=1))
    assert odd.interval.method == "items"
    odd, _ = odd_and_even(*(Side(np.array([value])) for value in (4.0, 4.2, 4.1)))
    assert (odd.value, odd.interval) == (pytest.approx(-0.1), None)
    assert odd_and_even(*(Side(side.means) for side in sides()))[0].interval.method == "seeds"


def test_intervals_contain_the_truth_as_often_as_they_say():
    hits = 0
    for repeat in range(1000):
        rng = np.random.default_rng([9, repeat])
        seed = rng.normal(0, 0.05, 5)
        found = [Side(shift + seed + rng.normal(0, 0.01, 5)) for shift in (EVEN + ODD, EVEN - ODD, 0.0)]
        parts = odd_and_even(*found)
        hits += sum(
            part.interval.low < known < part.interval.high for part, known in zip(parts, (ODD, EVEN), strict=True)
        )
    assert 0.93 < hits / 2000 < 0.97


def test_other_numbers_of_seeds_are_rejected():
    order, mirrored, tied = sides()
    with pytest.raises(ValueError, match="4, 4 and 3 seeds"):
        odd_and_even(order, mirrored, Side(tied.means[:3]))
