"""The preferred share and its interval: a simulated learner whose preference is known."""

import numpy as np
import pytest

from launch.probe.branches import Branch, emphases
from launch.probe.page import headline, render, show
from launch.probe.preferred import Measured, minimum, on_simplex, preferred
from launch.probe.results import Cost, analysed
from train.report.measures import measures_of

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
LOSS, ACCURACY = (measures_of([{key: 1.0}])[0] for key in ("val/loss", "bench/echo/acc"))
HALF = np.full(2, 0.5)


def branch(step, high, seed=0):
    return Branch(f"step_{step}_{high}_{seed}", step, (1 - high, high), seed)


def learner(step, wanted, noise=0.0, seed=0, sign=1.0):
    """Branches of a learner that loses 0.4 nats times the squared distance from the share that it prefers."""
    draw = np.random.default_rng(seed)
    return [
        Measured(branch(step, high), sign * (3 + 0.4 * (high - wanted) ** 2 + noise * draw.standard_normal()))
        for high in SHARES
    ]


def results(measured, progress, measure=LOSS, kind="logistic", names=("low", "high"), sizes=HALF):
    given = {"run": "trunk", "words": "preference=table preference.file=p.csv", "cost": Cost(25, 5000, 100_000)}
    return analysed(measured, progress, measure, list(names), np.array(sizes), kind, **given)


@pytest.mark.parametrize(("wanted", "found"), [(0.3, 0.3), (0.0, 0.0), (1.0, 1.0), (1.4, 1.0), (-2.0, 0.0)])
def test_a_quadratic_is_found_exactly_or_at_the_nearer_end(wanted, found):
    one = preferred(learner(7, wanted), 0.5, True)
    assert one.shares == pytest.approx([1 - found, found], abs=1e-9)
    assert one.low == pytest.approx(one.shares, abs=1e-6)
    assert one.high == pytest.approx(one.shares, abs=1e-6)
    assert one.deviation == pytest.approx(0, abs=1e-12)


def test_more_is_better_for_an_accuracy():
    assert preferred(learner(7, 0.8, sign=-1), 0.5, False).shares[1] == pytest.approx(0.8)


def test_intervals_hold_the_truth_as_often_as_they_say():
    held = 0
    for seed in range(100):
        one = preferred(learner(seed, 0.4, noise=0.01, seed=seed), 0.5, True)
        held += one.low[1] <= 0.4 <= one.high[1]
    assert held >= 89  # 95 expected; fewer than 89 once in 100 times


def test_held_out_documents_are_resampled_together():
    """Half of the documents prefer 0.1 and half 0.9: the preferred share is 0.5 and depends on which are held out."""
    measured = []
    for high in SHARES:
        table = {n: (2 + n % 7 + 0.4 * (high - (0.1, 0.9)[n % 2]) ** 2, 10.0) for n in range(60)}
        measured.append(Measured(branch(3, high), float(np.mean([mean for mean, _ in table.values()])), table))
    one = preferred(measured, 0.5, True)
    assert one.documents == 60
    assert one.shares[1] == pytest.approx(0.5)
    # a mean of 60 documents at 0.1 or 0.9: standard error 0.4 / sqrt(60), so 0.5 +- 0.101
    assert one.low[1] == pytest.approx(0.4, abs=0.012)
    assert one.high[1] == pytest.approx(0.6, abs=0.012)
    shared = [Measured(one.branch, one.value, {0: (1.0, 1.0), 1: (one.value, 1.0)}) for one in measured]
    other = [*shared[:-1], Measured(shared[-1].branch, shared[-1].value, {0: (1.0, 1.0), 2: (1.0, 1.0)})]
    assert preferred(other, 0.5, True).documents == 0  # not the same documents


def test_three_buckets_are_found_from_emphasised_ones():
    sizes, wanted = np.array([0.5, 0.25, 0.25]), np.array([0.1, 0.3, 0.6])
    mixtures = emphases(SHARES, ["q1", "q2", "q3"], sizes)
    assert all(sum(row) == pytest.approx(1) for row in mixtures.values())
    assert mixtures["q1_0"] == pytest.approx((0, 0.5, 0.5))
    assert len(mixtures) == 13  # the corpus's own mixture is in the list of all three, and counts once
    measured = [
        Measured(Branch(name, 5, row, 0), float(((np.array(row) - wanted) ** 2).sum()))
        for name, row in mixtures.items()
    ]
    assert preferred(measured, 0.5, True).shares == pytest.approx(wanted, abs=1e-6)


def test_the_minimum_of_a_fit_that_is_not_convex_is_an_end():
    assert minimum(np.array([[0.0, -0.1, 0.0, -1.0]])) == pytest.approx(np.array([[0.0, 1.0]]))
    assert minimum(np.array([[0.0, 0, -0.1, 0, 0, -1.0]])) == pytest.approx(np.array([[0.0, 0, 1]]))
    assert on_simplex(np.array([[0.5, 0.7], [2.0, 0.0]])) == pytest.approx(np.array([[0.4, 0.6], [1.0, 0.0]]))


def test_three_branches_are_too_few():
    with pytest.raises(ValueError, match="step 7: 3 finished branches are too few for a quadratic with 3 coefficients"):
        preferred(learner(7, 0.5)[:3], 0.5, True)


def rising(noise, wanted=lambda p: 1 / (1 + np.exp(-6 * (p - 0.5))), kind="logistic", measure=LOSS, sign=1.0):
    progress = {step: step / 100 for step in (10, 30, 50, 70, 90)}
    measured = [one for step, p in progress.items() for one in learner(step, wanted(p), noise, step, sign)]
    return results(measured, progress, measure, kind)


def test_a_preference_that_rises_is_found_with_its_slope():
    found = rising(noise=0.003)
    assert found.fitted.slopes == pytest.approx([0, 6], abs=1.2)
    assert found.trend.low > 0
    assert "the preferred share of high goes from" in headline(found)
    assert ": it rises (" in headline(found)
    assert rising(noise=0).fitted.slopes == pytest.approx([0, 6], abs=1e-3)
    assert rising(0.003, measure=ACCURACY, sign=-1).fitted.slopes == pytest.approx([0, 6], abs=1.2)
    high = np.array(rising(0.003, kind="monotone").fitted.shares)[:, 1]
    assert high == pytest.approx([0.08, 0.23, 0.5, 0.77, 0.92], abs=0.08)


def test_no_preference_is_said_to_be_none():
    found = rising(noise=0.01, wanted=lambda p: 0.5)
    assert not found.trend.excludes_zero
    assert headline(found).startswith("By val/loss, no preference was found")


def test_a_checkpoint_without_enough_branches_is_left_out_and_noted():
    progress = {10: 0.1, 50: 0.5, 90: 0.9}
    measured = [*learner(10, 0.2), *learner(50, 0.5)[:2], *learner(90, 0.8)]
    found = results(measured, progress)
    assert [one.from_step for one in found.checkpoints] == [10, 90]
    assert any("step 50: 2 finished branches" in note for note in found.notes)
    with pytest.raises(ValueError, match="1 checkpoints have enough finished branches, and a preference needs 2"):
        results(learner(10, 0.2), progress)


def test_page_and_table_show_the_same_numbers(capsys):
    found = rising(noise=0.003)
    show(found)
    printed = capsys.readouterr().out
    page = render(found, [])
    for one in found.checkpoints:
        text = f"{100 * one.shares[1]:.0f} %"
        assert text in printed
        assert text in page
    assert "25 branches, 5.00k tokens: 5 % of the run" in printed
    assert "preference=table preference.file=p.csv" in page
    assert page == render(found, [])
