"""Toy objectives defined outside the package: loop and engine have no code for them."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from models.attention import Documents, on_device
from train.objectives.language_model import LanguageModel, MicroBatch

BETA, GAMMA = 2.0, 0.5
ENOUGH = 6.0
"""Mean loss in nats above which `Unlearned` is reached."""


class WeightedBatch(NamedTuple):
    plain: MicroBatch
    weights_B: Tensor


def weight_of(sample):
    """Return the weight of a sample: 0, 0.5 or 1."""
    return sample % 3 / 2


class Weighted(LanguageModel):
    """Importance-weighted next-token loss: every label of a sample has the weight `weight_of(sample)`."""

    name = "weighted"

    def micro_batch(self, ids, size):
        weights = [weight_of(sample) for sample in ids] + [0.0] * (size - len(ids))
        return WeightedBatch(super().micro_batch(ids, size), torch.tensor(weights))

    def losses(self, engine, micro_batch):
        device = engine.world.device
        ids_BS, weights_B = (on_device(part, device) for part in (micro_batch.plain.ids_BS, micro_batch.weights_B))
        weights_BT = weights_B[:, None].expand(-1, ids_BS.shape[1] - 1)
        losses = engine(ids_BS, micro_batch.plain.documents, weights_BT=weights_BT)
        return losses._replace(losses_BT=losses.losses_BT * weights_BT)


class Unlearned(LanguageModel):
    """Gradient ascent until the mean loss of a step exceeds `ENOUGH`."""

    name = "unlearned"

    def __init__(self, tokens):
        super().__init__(tokens)
        self.mean = 0.0

    def losses(self, engine, micro_batch):
        ids_BS = on_device(micro_batch.ids_BS, engine.world.device)
        weights_BT = torch.full(ids_BS[:, 1:].shape, -1.0, device=ids_BS.device)
        return engine(ids_BS, micro_batch.documents, weights_BT=weights_BT)

    def post_step(self, loop, batch):
        self.mean = float(loop.world.all_sum(loop.losses_N.sum())) / batch.global_count

    def reached(self, loop):
        return self.mean > ENOUGH

    def metrics(self, loop):
        return {"unlearn/loss": self.mean}

    def summary(self, loss):
        return {"train/loss": loss, "unlearn/enough": ENOUGH}

    def state(self):
        return {"mean": self.mean}

    def load_state(self, state):
        self.mean = state["mean"]


class Pairs(NamedTuple):
    ids_BS: Tensor
    """The chosen samples, one per row, then the rejected ones."""
    documents: Documents
    real_P: Tensor
    """1 for a real pair, 0 for padding."""


def margins(losses_BT):
    """Return the SimPO margin of every pair from the losses per label; rows have no padding."""
    chosen_P, rejected_P = losses_BT.mean(dim=1).chunk(2)
    return BETA * (rejected_P - chosen_P) - GAMMA


class Simpo(LanguageModel):
    """SimPO (arXiv 2405.14734) in two passes; chosen: a sample, rejected: the same tokens reversed."""

    name = "simpo"

    def micro_batch(self, ids, size):
        chosen_PS = super().micro_batch(ids, size).ids_BS.clamp(min=1)
        real_P = (torch.arange(size) < len(ids)).float()
        ids_BS = torch.cat([chosen_PS, chosen_PS.flip(1)])
        return Pairs(ids_BS, Documents.of(ids_BS[:, :-1], self.tokens.end_of_text), real_P)

    def count(self, samples, labels):
        return samples

    def summary(self, loss):
        return {"train/loss": loss}

    def losses(self, engine, micro_batch):
        ids_BS, real_P = (on_device(part, engine.world.device) for part in (micro_batch.ids_BS, micro_batch.real_P))
        with torch.no_grad():
            margins_P = margins(engine(ids_BS, micro_batch.documents).losses_BT)
        slopes_P = real_P * torch.sigmoid(-margins_P) * BETA / (ids_BS.shape[1] - 1)
        weights_BT = torch.cat([slopes_P, -slopes_P])[:, None].expand(-1, ids_BS.shape[1] - 1)
        losses = engine(ids_BS, micro_batch.documents, weights_BT=weights_BT)
        return losses._replace(losses_BT=(real_P * -F.logsigmoid(margins_P))[:, None])


class SimpoByAutograd(Simpo):
    """The same loss in one pass with full logits."""

    def losses(self, decoder, micro_batch):
        ids_BS = micro_batch.ids_BS
        logits_BTV = decoder.head(decoder.hidden(ids_BS[:, :-1], micro_batch.documents))
        losses_BT = F.cross_entropy(logits_BTV.mT, ids_BS[:, 1:], reduction="none")
        return (micro_batch.real_P * -F.logsigmoid(margins(losses_BT))).sum()
