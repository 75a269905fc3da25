"""Statistics with known answers."""

import math

import numpy as np
import pytest

from launch.study.statistics import pairs_needed, tokens_to
from train.report.student import NORMAL


def test_pairs_needed() -> None:
    assert pairs_needed(0.01, 0.02) == 4
    assert pairs_needed(0.05, 0.02) == 51


def test_pairs_needed_with_few_documents() -> None:
    """Documents that leave a standard error of 0.6 of what a test finds take 1 - 0.36 of the variance: n is 1 / 0.64
    times as large. Those that leave all of it take every chance."""
    error = 0.02 / 2.8
    assert pairs_needed(0.05, 0.02, floor=0.6 * error * NORMAL) == math.ceil((2.8 * 0.05 / 0.02) ** 2 / 0.64 + 2)
    assert pairs_needed(0.05, 0.02, floor=1.01 * error * NORMAL) is None


def test_tokens_to_a_loss() -> None:
    tokens, losses = np.array([1e6, 2e6, 4e6]), np.array([5.0, 4.5, 4.0])
    assert tokens_to(4.25, tokens, losses) == pytest.approx(2e6 * math.sqrt(2))
    assert tokens_to(3.0, tokens, losses) is None
    assert tokens_to(5.5, tokens, losses) is None
