"""Margins and M_AP against cases worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from curriculum.pairs.margins import margin, margins_of, warnings_of, z_scores

# Four pairs of one rejected answer: rewards and log-probabilities (chosen, rejected), tokens of both.
# E = 1, 3, -1, 5: mean 2, deviation sqrt(5). Mean logp: -1 - -2, -2 - -1, -3 - -3, -0.5 - -4.5: I = 1, 1, 0, 4: mean
# 1.5, deviation sqrt(2.25).
REWARDS = [2, 1, 3, 0, 0, 1, 4, -1]
LOGPS = [-2, -4, -6, -2, -3, -6, -2, -9]
TOKENS = np.array([2, 2, 3, 2, 1, 2, 4, 2])
ROWS = np.array([0, 2, 4, 6, 8])
TABLE = [  # E, I, z(E), z(I)
    (1, 1, -1 / math.sqrt(5), -0.5 / 1.5),
    (3, 1, 1 / math.sqrt(5), -0.5 / 1.5),
    (-1, 0, -3 / math.sqrt(5), -1.5 / 1.5),
    (5, 4, 3 / math.sqrt(5), 2.5 / 1.5),
]


@pytest.mark.parametrize("weight", [1.0, 2.5, 0.0])
def test_m_ap_is_the_authors_formula(weight: float) -> None:
    found = margins_of(np.array(REWARDS), np.array(LOGPS), TOKENS, ROWS, weight)
    assert found.m_ap_N is not None
    assert found.policy_N is not None
    assert found.policy_N.tolist() == [1, -1, 0, 4]
    columns = found.columns()
    for row, (explicit, implicit, z_explicit, z_implicit) in enumerate(TABLE):
        assert columns["explicit"][row] == explicit
        assert columns["implicit"][row] == implicit
        assert columns["z_explicit"][row] == pytest.approx(z_explicit, abs=1e-12)
        assert columns["z_implicit"][row] == pytest.approx(z_implicit, abs=1e-12)
        assert columns["m_ap"][row] == pytest.approx(z_explicit - weight * z_implicit, abs=1e-12)


def test_several_rejected_answers_count_by_their_mean() -> None:
    assert margin(np.array([5.0, 1, 2, 3, 7, 1]), np.array([0, 4, 6])).tolist() == [3, 6]
    assert margin(np.zeros(0), np.array([0])).tolist() == []


def test_constant_values_have_no_z_score_and_are_a_finding() -> None:
    assert z_scores(np.full(3, 0.1)).tolist() == [0, 0, 0]
    rewards = np.full(8, 0.1, dtype=np.float32)
    unusable, others = warnings_of(margins_of(rewards, None, TOKENS, ROWS), rewards)
    assert unusable == ["the rewards are all the same: z(E) is 0 everywhere, and M_AP says nothing about the rewards"]
    assert others == []
    rewards = np.array(REWARDS, dtype=np.float32)
    unusable, others = warnings_of(margins_of(rewards, None, TOKENS, ROWS), rewards)
    assert unusable == []
    assert others == ["1 pairs (25.0%) are inverted: the chosen answer has a lower reward than the rejected"]
