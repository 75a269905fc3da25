"""Poison for drills: NaN in a value on one rank (train/faults.py: guard.loss, guard.gradient, guard.weight)."""

from __future__ import annotations

import torch

from models.losses.cross_entropy import TokenLosses
from train.engine import Engine


def poison_loss(losses: TokenLosses) -> TokenLosses:
    """Return the losses with NaN as the total and as the loss of the first sample."""
    poisoned_BT = losses.losses_BT.clone()
    poisoned_BT[0] = torch.nan
    return losses._replace(total=losses.total * torch.nan, losses_BT=poisoned_BT)


@torch.no_grad()
def poison_gradient(engine: Engine) -> None:
    """Set one element of the gradient that this rank holds to NaN."""
    next(tensor for tensor in engine.gradients() if tensor.numel()).view(-1)[0] = torch.nan


@torch.no_grad()
def poison_weight(engine: Engine) -> None:
    """Set one element of the weights used in the forward pass, not of the float32 master weights, to NaN."""
    parameter = next(engine.decoder.parameters())
    shard = getattr(parameter, "ds_tensor", parameter.data)  # with ZeRO 3 a rank holds only a shard
    shard.view(-1)[0] = torch.nan
