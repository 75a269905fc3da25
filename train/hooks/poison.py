"""Poison for drills: a value on one rank that is not a number (train/faults.py: guard.loss, .gradient, .weight)."""

from __future__ import annotations

import torch

from models.losses.cross_entropy import TokenLosses
from train.engine import Engine


def poison_loss(losses: TokenLosses) -> TokenLosses:
    """Return the losses of a micro-batch whose first sample's loss is not a number."""
    spoiled_BT = losses.losses_BT.clone()
    spoiled_BT[0] = torch.nan
    return losses._replace(total=losses.total * torch.nan, losses_BT=spoiled_BT)


@torch.no_grad()
def poison_gradient(engine: Engine) -> None:
    """Spoil an element of the gradient that this rank holds of a step."""
    next(tensor for tensor in engine.gradients() if tensor.numel()).view(-1)[0] = torch.nan


@torch.no_grad()
def poison_weight(engine: Engine) -> None:
    """Spoil an element of the weights that this rank computes with, not of its float32 master weights."""
    parameter = next(engine.decoder.parameters())
    held = getattr(parameter, "ds_tensor", parameter.data)  # at ZeRO 3 a rank holds a part of it
    held.view(-1)[0] = torch.nan
