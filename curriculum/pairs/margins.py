"""Margins of pairs: explicit, implicit, and the alignment potential M_AP.

M_AP = z(E) - w * z(I), with z-scores over the whole set ("Larger or Smaller Reward Margins to Select Preferences for
LLM Alignment?", arXiv 2503.01864): a pair is worth training on if a reward model tells its answers apart and the policy
does not yet.

    E  explicit margin   reward of the chosen answer - mean reward of the rejected ones
    I  implicit margin   | logp(chosen) / |chosen| - mean over the rejected ones of logp / length |, in nats per token,
                         under the policy before training; only the answer's tokens count, and no reference model

The formula is for one rejected answer; with several we take their mean, as LOGO's loss does.

Shapes: N pairs, K answers, of every pair the chosen one first; rows_N1 is the first answer of each pair, then K.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Margins(NamedTuple):
    """Margins of all pairs, float64 [N]; None: not known."""

    explicit_N: Floats | None
    policy_N: Floats | None
    """The policy's margin with its sign, in nats per token: positive where it prefers the chosen answer."""
    weight: float = 1.0
    """w."""

    @property
    def implicit_N(self) -> Floats | None:
        """Return I."""
        return None if self.policy_N is None else np.abs(self.policy_N)

    @property
    def m_ap_N(self) -> Floats | None:
        """Return M_AP; None unless both margins are known."""
        if self.explicit_N is None or self.implicit_N is None:
            return None
        return z_scores(self.explicit_N) - self.weight * z_scores(self.implicit_N)

    def columns(self) -> dict[str, Floats]:
        """Return the known margins by the names of their columns."""
        found = {
            "explicit": self.explicit_N,
            "implicit": self.implicit_N,
            "policy": self.policy_N,
            "z_explicit": None if self.explicit_N is None else z_scores(self.explicit_N),
            "z_implicit": None if self.implicit_N is None else z_scores(self.implicit_N),
            "m_ap": self.m_ap_N,
        }
        return {name: column for name, column in found.items() if column is not None}


def margins_of(
    rewards_K: NDArray[np.floating] | None,
    logp_K: NDArray[np.floating] | None,
    tokens_K: NDArray[np.integer],
    rows_N1: NDArray[np.integer],
    weight: float = 1.0,
) -> Margins:
    """Return the margins of pairs from the rewards and the summed log-probabilities (nats) of their answers."""
    explicit_N = None if rewards_K is None else margin(rewards_K, rows_N1)
    policy_N = None if logp_K is None else margin(np.asarray(logp_K, dtype=np.float64) / tokens_K, rows_N1)
    return Margins(explicit_N, policy_N, weight)


def margin(values_K: NDArray[np.floating], rows_N1: NDArray[np.integer]) -> Floats:
    """Return each pair's value of the chosen answer minus the mean of the rejected ones, float64 [N]."""
    values_K = np.asarray(values_K, dtype=np.float64)
    if len(rows_N1) < 2:
        return np.zeros(0)
    chosen_N = values_K[rows_N1[:-1]]
    rejected_N = np.add.reduceat(values_K, rows_N1[:-1]) - chosen_N
    found_N: Floats = chosen_N - rejected_N / (np.diff(rows_N1) - 1)
    return found_N


def z_scores(values_N: Floats) -> Floats:
    """Return (value - mean) / standard deviation over the set; all 0 where every value is the same."""
    deviation = values_N.std() if len(values_N) else 0.0
    if deviation <= 1e-12 * max(1.0, float(np.abs(values_N).max(initial=0.0))):
        return np.zeros(len(values_N))
    z_N: Floats = (values_N - values_N.mean()) / deviation
    return z_N


def warnings_of(margins: Margins, rewards_K: NDArray[np.floating] | None) -> tuple[list[str], list[str]]:
    """Return what makes margins unusable, and what else should be known."""
    unusable, others = [], []
    if margins.explicit_N is not None and rewards_K is not None and len(margins.explicit_N):
        if not z_scores(margins.explicit_N).any():
            what = "rewards are all the same" if np.ptp(rewards_K) == 0 else "explicit margins are all the same"
            unusable.append(f"the {what}: z(E) is 0 everywhere, and M_AP says nothing about the rewards")
        if inverted := int((margins.explicit_N < 0).sum()):
            share = inverted / len(margins.explicit_N)
            others.append(
                f"{inverted:,} pairs ({share:.1%}) are inverted: the chosen answer has a lower reward than the rejected"
            )
    if margins.implicit_N is not None and len(margins.implicit_N) > 1 and not z_scores(margins.implicit_N).any():
        unusable.append("the implicit margins are all the same: the policy gives all answers the same log-probability")
    return unusable, others
