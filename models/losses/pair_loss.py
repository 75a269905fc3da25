"""DPO, SimPO and LOGO: losses that compare a chosen answer with rejected ones.

With beta, gamma and lambda the coefficients, w the chosen answer and l a rejected one of M, and mlp the mean
log-probability of an answer's tokens:

    dpo     mean over l of -log sigmoid(beta * (log p/p_ref (w) - log p/p_ref (l)))       arXiv 2305.18290, equation 7
    simpo   mean over l of -log sigmoid(beta * (mlp(w) - mlp(l)) - gamma)                 arXiv 2405.14734, equation 6
    logo    -log sigmoid(beta * mlp(w) - beta / M * sum over l of mlp(l) - gamma)         arXiv 2410.18533

each plus lambda * (-mlp(w)). With several rejected answers, dpo and simpo are the means over the pairs (w, l). The sign
of lambda is printed as a minus in the paper of LOGO, which would lower the chosen answer's probability.

Shapes: P prompts, Q answers, R comparisons: pairs (w, l) of dpo and simpo, prompts of logo.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.attention import on_device
from models.losses.pair_batch import PairBatch

LOSSES = ("dpo", "simpo", "logo")
METRICS = ("rewards/chosen", "rewards/rejected", "rewards/accuracies", "logps/chosen", "logps/rejected")
"""TRL's names of what PairLosses holds next to the loss."""
MARGINS = "rewards/margins"


class PairLosses(NamedTuple):
    """The loss of every prompt, and what TRL reports of it; all but the loss are detached; float32 [P]."""

    loss_P: Tensor
    chosen_P: Tensor
    """Reward of the chosen answer: beta * log p/p_ref (dpo) or beta * mlp."""
    rejected_P: Tensor
    """Mean reward of the rejected answers."""
    accuracy_P: Tensor
    """Share of the rejected answers whose reward is below the chosen one's."""
    chosen_logp_P: Tensor
    """log p of the chosen answer (dpo) or its mlp."""
    rejected_logp_P: Tensor
    """The same of the rejected answers, their mean."""

    def shown(self) -> dict[str, Tensor]:
        """Return the metrics of every prompt by name."""
        return {**dict(zip(METRICS, self[1:], strict=True)), MARGINS: self.chosen_P - self.rejected_P}


@dataclass(frozen=True)
class PairLoss:
    """One of the losses with its coefficients."""

    name: str
    """One of LOSSES."""
    beta: float
    gamma: float = 0.0
    ce_weight: float = 0.0
    """lambda."""

    def __call__(self, logp_Q: Tensor, batch: PairBatch, reference_Q: Tensor | None = None) -> PairLosses:
        """Return the losses from log p of every answer; dpo needs that of the reference model as well."""
        device = logp_Q.device
        length_Q = on_device(torch.tensor(batch.lengths, dtype=torch.float32), device)
        chosen_PQ, rejected_PQ, pairs_RQ, owner_PR = (on_device(table, device) for table in _tables(batch.answers))
        mean_Q = logp_Q / length_Q
        score_Q = mean_Q
        if self.name == "dpo":
            assert reference_Q is not None, "dpo compares with a reference"
            score_Q = logp_Q - reference_Q
        shown_Q = (logp_Q if self.name == "dpo" else mean_Q).detach()
        reward_Q = self.beta * score_Q
        if self.name == "logo":
            loss_P = -F.logsigmoid((chosen_PQ - rejected_PQ) @ reward_Q - self.gamma)
        else:
            loss_P = owner_PR @ -F.logsigmoid(pairs_RQ @ reward_Q - self.gamma)
        if self.ce_weight:
            loss_P = loss_P - self.ce_weight * (chosen_PQ @ mean_Q)
        reward_Q = reward_Q.detach()
        above_R = ((pairs_RQ @ reward_Q) > 0).float()
        rewards = (chosen_PQ @ reward_Q, rejected_PQ @ reward_Q, owner_PR @ above_R)
        return PairLosses(loss_P, *rewards, chosen_PQ @ shown_Q, rejected_PQ @ shown_Q)


def _tables(answers: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return matrices that take the chosen answers [P, Q], the mean of the rejected ones [P, Q], the differences of all
    pairs [R, Q], and the mean over a prompt's pairs [P, R]."""
    prompts, total = len(answers), sum(answers)
    chosen_PQ, rejected_PQ = torch.zeros(prompts, total), torch.zeros(prompts, total)
    pairs_RQ, owner_PR = torch.zeros(total - prompts, total), torch.zeros(prompts, total - prompts)
    first = pair = 0
    for number, count in enumerate(answers):
        rest = count - 1
        chosen_PQ[number, first] = 1
        rejected_PQ[number, first + 1 : first + count] = 1 / rest
        owner_PR[number, pair : pair + rest] = 1 / rest
        pairs_RQ[pair : pair + rest, first] = 1
        pairs_RQ[range(pair, pair + rest), range(first + 1, first + count)] = -1
        first, pair = first + count, pair + rest
    return chosen_PQ, rejected_PQ, pairs_RQ, owner_PR
