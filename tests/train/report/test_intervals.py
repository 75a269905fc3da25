"""Intervals have their stated coverage: compared with the bootstrap, known cases and simulated comparisons."""

import math
import time

import numpy as np
import pytest

from benchmarks.interval_coverage import CASES, SEEDS, Count, bootstrap_interval, simulate
from train.evaluation.answers import Items
from train.report.intervals import Side, average, interval, scaled, side_of, t_quantile

T_975 = {
    1: 12.706205,
    2: 4.302653,
    5: 2.570582,
    9: 2.262157,
    10: 2.228139,
    30: 2.042272,
    120: 1.979930,
    10**6: 1.959966,
}


def losses(seed, shift=0.0, count=400, spread=0.1):
    own = np.random.default_rng(1).gamma(4.0, 0.8, count)
    weights = np.random.default_rng(2).integers(1, 200, count).astype(float)
    return Items(np.arange(count), own + shift + np.random.default_rng([3, seed]).normal(0, spread, count), weights)


def answers(seed, share, count=500):
    asked = np.random.default_rng(1).normal(0, 1, count)
    right = asked + np.random.default_rng([4, seed]).normal(0, 0.5, count) < share
    return Items(np.arange(count), right.astype(float), np.ones(count))


def between(first, second, paired=True):
    difference = float(second.means.mean() - first.means.mean())
    found = interval(first, second, difference, paired)
    assert found is not None
    return difference, found


@pytest.mark.parametrize("freedom", T_975)
def test_students_t(freedom):
    assert t_quantile(freedom) == pytest.approx(T_975[freedom], abs=3e-4)


@pytest.mark.parametrize("make", [losses, answers])
def test_one_seed_gives_the_interval_of_a_paired_bootstrap_of_the_items(make):
    first, second = side_of([make(1, 0.0)]), side_of([make(2, -0.03)])
    difference, found = between(first, second)
    ends = bootstrap_interval(first, second, difference, True, np.random.default_rng(0), resamples=5_000)
    assert (found.low, found.high) == pytest.approx(ends, abs=0.04 * (found.high - found.low))
    assert found.method == "items"


def test_the_variance_of_the_items_is_that_of_a_bootstrap_with_several_seeds_too():
    sides = [side_of([losses(10 * arm + seed, 0.02 * arm) for seed in range(3)]) for arm in (0, 1)]
    means = [side.means.mean() for side in sides]
    drawn = np.random.default_rng(0).multinomial(400, np.full(400, 1 / 400), size=8_000)
    shift = (sides[1].influence - sides[0].influence).mean(axis=0) @ drawn.T * math.sqrt(399 / 400)
    averaged = [
        Side(np.asarray([mean]), side.influence.mean(axis=0)[None], side.ids, 399)
        for mean, side in zip(means, sides, strict=True)
    ]
    _, found = between(*averaged)
    assert (found.high - found.low) / 2 / t_quantile(399) == pytest.approx(shift.std(), rel=0.02)


def test_seeds_without_items_are_students_t():
    sides = [Side(np.asarray(values)) for values in ([4.0, 4.2, 4.1], [4.1, 4.1, 4.2])]
    difference, found = between(*sides)
    half = 4.302653 * np.std([0.1, -0.1, 0.1], ddof=1) / math.sqrt(3)
    assert (found.low, found.high) == pytest.approx((difference - half, difference + half), rel=1e-5)
    assert found.method == "seeds"


def test_items_and_seeds_widen_the_interval_together():
    def sides(spread):
        shifts = spread * np.random.default_rng(9).normal(size=(2, 3))
        return [side_of([losses(10 * arm + seed, shifts[arm][seed]) for seed in range(3)]) for arm in (0, 1)]

    widths = []
    for spread in (0.0, 0.05, 0.5):
        _, found = between(*sides(spread))
        assert found.method == "items and seeds"
        widths.append(found.high - found.low)
    assert widths[0] < widths[1] < widths[2]
    seeds_only = [Side(side.means) for side in sides(0.5)]
    _, found = between(*seeds_only)
    assert widths[2] == pytest.approx(found.high - found.low, rel=0.02), "if seeds dominate, it is their t interval"


def test_without_any_variance_estimate_there_is_no_interval():
    one, three = Side(np.asarray([4.0])), Side(np.asarray([4.1, 4.2, 4.0]))
    assert interval(one, one, 0.0, True) is None
    _, found = between(one, three, paired=False)
    assert found.method == "seeds"
    _, found = between(Side(np.asarray([0.5]), error=0.03), Side(np.asarray([0.6]), error=0.04))
    assert found.method == "standard errors"
    assert found.high - found.low == pytest.approx(2 * 1.96 * 0.05, rel=1e-4)


def test_other_items_are_not_paired():
    first, second = losses(1), losses(2)
    moved = Items(second.ids + 1, second.values, second.weights)
    assert side_of([first, moved]) is None
    assert interval(side_of([first]), side_of([moved]), 0.0, True) is None


def test_four_questions_do_not_decide_between_nearly_equal_answers():
    same = np.zeros(500)
    better = same.copy()
    better[:4] = 1.0
    sides = [side_of([Items(np.arange(500), values, np.ones(500))]) for values in (same, better)]
    _, found = between(*sides)
    assert found.low < 0 < found.high, "four of four in one direction happen by chance in one of eight comparisons"
    _, found = between(sides[0], sides[0])
    assert found.low < 0 < found.high


def test_an_average_resamples_within_each_task():
    tasks = [[side_of([answers(10 * arm + task, 0.1 * arm, 300)]) for task in range(3)] for arm in (0, 1)]
    whole = [average(sides) for sides in tasks]
    assert whole[0].means[0] == pytest.approx(np.mean([task.means[0] for task in tasks[0]]))
    _, found = between(*whole)
    halves = [(lambda ends: (ends.high - ends.low) / 2)(between(a, b)[1]) for a, b in zip(*tasks, strict=True)]
    assert (found.high - found.low) / 2 == pytest.approx(math.hypot(*halves) / 3, rel=0.01)
    assert average([tasks[0][0], Side(np.asarray([0.5]))]) is None


def test_a_measure_in_other_units_has_its_interval_in_them():
    first, second = side_of([losses(1)]), side_of([losses(2, -0.01)])
    _, nats = between(first, second)
    _, bits = between(scaled(first, np.asarray([0.3])), scaled(second, np.asarray([0.3])))
    assert (bits.low, bits.high) == pytest.approx((0.3 * nats.low, 0.3 * nats.high))


@pytest.mark.parametrize("seeds", SEEDS)
def test_intervals_have_their_coverage_in_simulated_comparisons(seeds):
    """`python -m benchmarks.interval_coverage` runs 1,000 repeats of each case."""
    total = Count()
    for case in CASES:
        total.add(simulate(case, seeds, 60, seed=7))
    assert total.repeats == 480
    assert 91.5 <= total.coverage <= 98.5, "93.5 to 96.5, plus or minus two binomial standard deviations"
    assert total.false_alarms <= 9.5
    assert total.without >= 60


def test_two_level_bootstraps_of_few_seeds_are_too_narrow():
    case = next(case for case in CASES if case.name == "loss, seeds x 4")
    count = simulate(case, 3, 60, seed=7, bootstrap=60)
    assert count.bootstrap < 90 < count.coverage


def test_a_large_table_is_computed_in_seconds():
    began = time.process_time()
    for _ in range(4):  # of 400 comparisons each: 100 measures, 4 stages
        sides = [side_of([answers(10 * arm + seed, 0.1 * arm, 2000) for seed in range(3)]) for arm in (0, 1)]
        for _ in range(100):
            between(*sides)
    assert time.process_time() - began < 2
