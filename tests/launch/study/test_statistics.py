"""Statistics with known answers."""

import math

import numpy as np
import pytest

from launch.study.statistics import (
    ROBUST,
    SUGGESTIVE,
    UNSUPPORTED,
    nested_bootstrap,
    paired_t,
    pairs_needed,
    tier,
    tokens_to,
)


def test_paired_t_of_a_textbook_case() -> None:
    """Differences 1, 2, 3: mean 2, standard error 1/sqrt(3), t(2) = 3.464, p = 0.0742."""
    found = paired_t(np.array([1.0, 2.0, 3.0]))
    assert (found.value, found.seeds) == (2.0, 3)
    assert found.high - 2.0 == pytest.approx(4.30265 / math.sqrt(3), abs=1e-4)
    assert found.p == pytest.approx(0.0742, abs=1e-4)
    assert not found.excludes_zero


def test_one_pair_has_no_interval() -> None:
    with pytest.raises(ValueError, match="1 pair of runs has no spread"):
        paired_t(np.array([0.1]))


def test_equal_differences_are_certain() -> None:
    assert paired_t(np.array([0.5, 0.5])).p == 0.0
    assert paired_t(np.array([0.0, 0.0])).p == 1.0


def test_the_bootstrap_covers_seeds_and_documents() -> None:
    """Simulated: 8 seeds of deviation 0.02 and 100 documents of deviation 0.2; 93 to 97 % of intervals cover."""
    draw = np.random.default_rng(1)
    covered = 0
    for number in range(60):
        documents = draw.normal(0, 0.2, 100)
        difference = -0.05 + draw.normal(0, 0.02, (8, 1)) + documents
        found = nested_bootstrap(np.zeros((8, 100)), difference, np.ones((8, 100)), seed=number, resamples=1000)
        covered += found.low <= -0.05 <= found.high
    assert 53 <= covered <= 60


def test_long_documents_count_more() -> None:
    first = np.zeros((2, 2))
    second = np.array([[1.0, 0.0], [1.0, 0.0]])
    assert nested_bootstrap(first, second, np.array([[3.0, 1.0]] * 2)).value == pytest.approx(0.75)


def test_tiers() -> None:
    clear, unclear = paired_t(np.array([-1.0, -1.1, -0.9])), paired_t(np.array([-1.0, 1.0]))
    assert tier([clear, clear], repeated=True) == ROBUST
    assert tier([clear, clear], repeated=False) == SUGGESTIVE
    assert tier([clear, unclear], repeated=True) == UNSUPPORTED


def test_pairs_needed() -> None:
    assert pairs_needed(0.01, 0.02) == 4
    assert pairs_needed(0.05, 0.02) == 51


def test_tokens_to_a_loss() -> None:
    tokens, losses = np.array([1e6, 2e6, 4e6]), np.array([5.0, 4.5, 4.0])
    assert tokens_to(4.25, tokens, losses) == pytest.approx(2e6 * math.sqrt(2))
    assert tokens_to(3.0, tokens, losses) is None
    assert tokens_to(5.5, tokens, losses) is None
