"""Intervals have their stated coverage: compared with the bootstrap, known cases and simulated comparisons."""

import math
import time

import numpy as np
import pytest

from benchmarks.interval_coverage import CASES, SEEDS, Count, bootstrap_interval, simulate, simulate_task_sets
from train.evaluation.answers import Items
from train.report.intervals import Side, average, interval, scaled, side_of
from train.report.student import t_quantile


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
        Side(np.asarray([mean]), side.influence.mean(axis=0)[None], side.items, ((400, 399),))
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
    _, found = between(side_of([first]), side_of([moved]))
    assert found.method == "standard errors"
    _, paired = between(side_of([first]), side_of([second]))
    assert found.high - found.low > 5 * (paired.high - paired.low)
    longer = Items(second.ids, second.values, second.weights + 1)
    _, found = between(side_of([first]), side_of([longer]))
    assert found.method == "standard errors", "the same numbers of documents, but of another text"


def test_four_questions_do_not_decide_between_nearly_equal_answers():
    same = np.zeros(500)
    better = same.copy()
    better[:4] = 1.0
    sides = [side_of([Items(np.arange(500), values, np.ones(500))]) for values in (same, better)]
    _, found = between(*sides)
    assert found.low < 0 < found.high, "four of four in one direction happen by chance in one of eight comparisons"
    _, found = between(sides[0], sides[0])
    assert found.low < 0 < found.high


def windows(arm, documents, inside, seed=0, groups=True):
    """Return the losses of windows of documents, whose difference between arms is mostly the document's."""
    document = np.repeat(np.arange(documents), inside)
    own = np.random.default_rng([1, seed]).normal(4, 1, len(document))
    rng = np.random.default_rng([2, seed, arm])
    values = own + rng.normal(0, 0.1, documents)[document] + rng.normal(0, 0.1, len(document))
    return Items(np.arange(len(document)), values, np.ones(len(document)), document if groups else None)


def test_windows_of_one_document_are_not_independent():
    widths = {}
    for groups in (True, False):
        _, found = between(*(side_of([windows(arm, 40, 50, groups=groups)]) for arm in (0, 1)))
        widths[groups] = (found.high - found.low) / 2
    known = 1.96 * math.sqrt(2 * (0.1**2 / 40 + 0.1**2 / 2000))
    assert widths[True] == pytest.approx(known, rel=0.25)
    assert widths[False] < 0.3 * widths[True]


def test_windows_of_a_document_count_like_the_document():
    """Answers by document give the same interval as answers by window with the document as their group."""
    sides = [[], []]
    for arm in (0, 1):
        items = windows(arm, 30, 8)
        means = items.values.reshape(30, 8).mean(axis=1)
        sides[arm] = [side_of([items]), side_of([Items(np.arange(30), means, np.full(30, 8.0), np.arange(30))])]
    (_, one), (_, other) = (between(sides[0][kind], sides[1][kind]) for kind in (0, 1))
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


def test_few_documents_get_students_t_and_one_gets_nothing():
    _, found = between(*(side_of([windows(arm, 3, 50)]) for arm in (0, 1)))
    differences = np.subtract(*(windows(arm, 3, 50).values.reshape(3, 50).mean(axis=1) for arm in (1, 0)))
    half = t_quantile(2) * differences.std(ddof=1) / math.sqrt(3)
    assert (found.high - found.low) / 2 == pytest.approx(half)
    assert side_of([windows(0, 1, 50)]) is None


def test_a_small_task_sets_the_degrees_of_freedom_of_an_average():
    small, large = ([windows(arm, count, 1, seed=count) for arm in (0, 1)] for count in (5, 2000))
    whole = [average([side_of([small[arm]]), side_of([large[arm]])]) for arm in (0, 1)]
    _, found = between(*whole)
    influence = whole[1].influence[0] - whole[0].influence[0]
    half = t_quantile(4) * math.sqrt(influence @ influence)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.02)


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
        total.add(simulate(case, seeds, 40, seed=7))
    assert total.repeats == 40 * len(CASES)
    assert 92 <= total.coverage <= 98.5, "93.5 to 97, plus or minus two binomial standard deviations"
    assert total.false_alarms <= 8.5
    assert total.wrong_calls == 0 if seeds == 1 else total.wrong_calls <= 8.5


@pytest.mark.parametrize("seeds", [1, 3])
def test_documents_and_passages_keep_the_coverage_that_independent_items_lose(seeds):
    count = simulate(next(case for case in CASES if case.name == "loss, 40 of 50, seeds x 0"), seeds, 150, seed=7)
    assert 91 <= count.coverage <= 99
    assert 100 * count.ungrouped / count.grouped < 75


@pytest.mark.parametrize("seeds", [1, 3])
def test_unequal_task_sets_make_no_difference(seeds):
    count = simulate_task_sets(seeds, 60, seed=7)
    assert count.coverage >= 90, "over all tasks that each side has, it is near 0"
    assert count.wrong_calls <= 10


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


def test_the_items_leave_the_same_interval_at_any_number_of_seeds():
    def sides(count):
        return [side_of([losses(100 * arm + seed, 0.02 * arm) for seed in range(count)]) for arm in (0, 1)]

    floors = [between(*sides(count))[1].floor for count in (3, 40)]
    assert between(*sides(1))[1].floor == 0
    assert between(*(Side(np.asarray(values)) for values in ([4.0, 4.2], [4.1, 4.1])))[1].floor == 0
    fewest, most = (between(*sides(count))[1] for count in (3, 40))
    assert all(0 <= floor < (found.high - found.low) / 2 for floor, found in zip(floors, (fewest, most), strict=True))
    assert floors[1] < 0.5 * (fewest.high - fewest.low) / 2
