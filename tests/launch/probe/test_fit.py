"""The preference through preferred shares, under the exactly-once constraint: cases with a known answer."""

import csv
import io

import numpy as np
import pytest

from curriculum.arrange.plan import real_plan
from curriculum.preference import Table
from launch.probe.fit import as_csv, distances, fit, isotonic, logistic, weights_of

AT = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
EQUAL = np.full(5, 0.1)


def two(high):
    return np.stack([1 - np.array(high), np.array(high)], axis=1)


def test_the_mean_over_the_run_is_linear_between_rows_and_constant_outside():
    assert weights_of(np.array([0.25, 0.75])) == pytest.approx([0.5, 0.5])
    assert weights_of(np.array([0.0, 0.5, 1.0])) == pytest.approx([0.25, 0.5, 0.25])
    assert weights_of(AT).sum() == pytest.approx(1)


def test_pool_adjacent_violators_by_hand():
    assert isotonic(np.array([1.0, 3, 2, 4]), np.ones(4)) == pytest.approx([1, 2.5, 2.5, 4])
    assert isotonic(np.array([3.0, 1]), np.array([3.0, 1])) == pytest.approx([2.5, 2.5])


def test_monotone_shares_by_hand():
    """Shares of 0.2 and 0.6 have a mean of 0.4; half of the corpus is high, so both rise by 0.1."""
    found = fit("monotone", np.array([0.25, 0.75]), two([0.2, 0.6]), np.full(2, 0.2), np.array([0.5, 0.5]))
    assert found.shares == pytest.approx(two([0.3, 0.7]))
    assert (found.off_constraint, found.off_plan) == pytest.approx((0, 0), abs=1e-6)


def test_a_monotone_fit_takes_the_nearer_direction_and_keeps_room_for_every_bucket():
    found = fit("monotone", AT, two([1.0, 1.0, 0.9, 0.0, 0.0]), EQUAL, np.array([0.4, 0.6]))
    high = np.array(found.shares)[:, 1]
    assert (np.diff(high) <= 0).all()
    assert weights_of(AT) @ high == pytest.approx(0.6, abs=1e-5)
    assert high.min() >= 0.01
    assert high.max() <= 0.99


@pytest.mark.parametrize("slope", [-20.0, -3.0, 0.0, 8.0])
def test_a_logistic_preference_is_recovered(slope):
    shares = logistic(np.array([0.0, slope]), np.array([0.7, 0.3]))(AT)
    found = fit("logistic", AT, shares, EQUAL, np.array([0.7, 0.3]))
    assert found.slopes == pytest.approx([0, slope], abs=1e-3)
    assert found.at(AT) == pytest.approx(shares, abs=1e-3)
    assert found.off_constraint < 1e-3
    assert found.off_plan < 1e-3


def test_half_and_half_is_the_logistic_function():
    """By symmetry the constraint puts the middle of the run at one half."""
    assert logistic(np.array([0.0, 6.0]), np.full(2, 0.5))(AT)[:, 1] == pytest.approx(1 / (1 + np.exp(-6 * (AT - 0.5))))


def test_three_buckets_are_recovered():
    sizes = np.array([0.25, 0.25, 0.5])
    found = fit("logistic", AT, logistic(np.array([0.0, 3.0, -5.0]), sizes)(AT), EQUAL, sizes)
    assert found.slopes == pytest.approx([0, 3, -5], abs=1e-3)
    assert weights_of(np.array(found.progress)) @ np.array(found.shares) == pytest.approx(sizes, abs=1e-3)


@pytest.mark.parametrize("kind", ["logistic", "monotone"])
@pytest.mark.parametrize("widths", [EQUAL, np.array([0.1, 0.4, 0.4, 0.4, 0.9])])
def test_a_level_that_the_corpus_does_not_have_becomes_a_constant(kind, widths):
    found = fit(kind, AT, two([1.0] * 5), widths, np.array([0.5, 0.5]))
    assert np.array(found.shares) == pytest.approx(np.full((len(found.shares), 2), 0.5), abs=1e-5)


def test_an_uncertain_share_counts_less():
    wild = two([0.3, 0.4, 0.5, 0.6, 0.0])
    sure, unsure = (
        fit("logistic", AT, wild, np.array([0.1] * 4 + [width]), np.array([0.5, 0.5])).slopes for width in (0.1, 2.0)
    )
    assert sure[1] < 0 < unsure[1]


def test_the_distance_is_what_the_plan_moves():
    """A table that wants 0.6 of a bucket with half of the corpus is planned at one half."""
    constraint, plan = distances(np.array([0.5]), two([0.6]), np.array([0.5, 0.5]))
    assert (constraint, plan) == pytest.approx((0.1, 0.1))


@pytest.mark.parametrize("kind", ["logistic", "monotone"])
def test_the_table_is_read_as_a_preference_and_planned_as_it_is(kind, tmp_path):
    sizes = np.array([0.5, 0.5])
    found = fit(kind, AT, two([0.2, 0.3, 0.5, 0.8, 0.9]), EQUAL, sizes)
    text = as_csv(found, ["low", "high"])
    assert next(csv.reader(io.StringIO(text))) == ["progress", "low", "high"]
    (tmp_path / "preference.csv").write_text(text)
    progress = np.linspace(0, 1, 101)
    wish = np.exp(
        Table(file=str(tmp_path / "preference.csv")).log_wish(progress, np.array([400, 400]), ["low", "high"])
    )
    planned = real_plan(wish, 8, np.array([400, 400]))[:, 1] / 8
    assert planned == pytest.approx(found.at((progress[1:] + progress[:-1]) / 2)[:, 1], abs=5e-3)
