"""Standard errors by group: the usual one for independent items, wider for windows of one document."""

import math

import numpy as np
import pytest

from train.evaluation.answers import Items
from train.evaluation.clusters import clustered, standard_error

RNG = np.random.default_rng(0)


def items(values: np.ndarray, groups: np.ndarray | None = None, weights: np.ndarray | None = None) -> Items:
    return Items(np.arange(len(values)), values, np.ones(len(values)) if weights is None else weights, groups)


def test_items_that_are_their_own_groups_have_the_usual_standard_error() -> None:
    values = RNG.normal(size=50)
    usual = values.std(ddof=1) / math.sqrt(50)
    assert standard_error(items(values)) == pytest.approx(usual)
    assert standard_error(items(values, np.arange(50))) == pytest.approx(usual)
    found = clustered([items(values)])
    assert found is not None
    assert found.freedom == pytest.approx(49)


def test_groups_of_equal_items_count_once() -> None:
    values = RNG.normal(size=20)
    repeated = items(np.repeat(values, 30), np.repeat(np.arange(20), 30))
    assert standard_error(repeated) == pytest.approx(values.std(ddof=1) / math.sqrt(20))


def test_the_error_is_that_of_a_weighted_mean_of_uneven_documents() -> None:
    """The true error is known: a document's effect has a deviation of 1, and documents have 1 to 40 windows."""
    sizes = np.tile([1, 5, 10, 40], 15)
    group = np.repeat(np.arange(60), sizes)
    shares = sizes / sizes.sum()
    found = []
    for _ in range(300):
        effects = RNG.normal(0, 1, 60)
        errors = standard_error(items(effects[group], group))
        assert errors is not None
        found.append(errors**2)
    assert np.mean(found) == pytest.approx((shares**2).sum(), rel=0.1)
    one = clustered([items(RNG.normal(size=len(group)), group)])
    assert one is not None
    assert 14 < one.freedom < 20, "as many as the 15 long documents and a few more"


def test_fewer_than_two_groups_say_nothing() -> None:
    assert standard_error(items(RNG.normal(size=9), np.zeros(9, dtype=int))) is None
    assert standard_error(items(np.ones(1))) is None
