"""Fault points inside a step (train/faults.py), as hooks that are added only if PDPC_FAULT names a point."""

from __future__ import annotations

from typing import TYPE_CHECKING

from train.faults import fault, poisoned
from train.hooks.hook import Hook
from train.hooks.poison import poison_gradient, poison_loss, poison_weight

if TYPE_CHECKING:
    from models.losses.cross_entropy import TokenLosses
    from train.batches import Batch
    from train.loop_state import LoopState


class Drills(Hook):
    """Strikes right after the engine's calls. Runs before all other hooks, which see its effects."""

    name = "drills"

    def pre_step(self, loop: LoopState, batch: Batch) -> None:
        """Poison a weight."""
        if poisoned("guard.weight"):
            poison_weight(loop.engine)

    def post_forward(self, loop: LoopState, batch: Batch, index: int, losses: TokenLosses) -> TokenLosses | None:
        """Strike after a forward pass, or poison its losses."""
        fault("loop.after_forward")
        return poison_loss(losses) if poisoned("guard.loss") else None

    def pre_optim_step(self, loop: LoopState) -> None:
        """Strike after the last backward pass, or poison a gradient."""
        fault("loop.after_backward")
        if poisoned("guard.gradient"):
            poison_gradient(loop.engine)

    def post_optim_step(self, loop: LoopState) -> None:
        """Strike when the weights are updated but the step is not on record."""
        fault("loop.after_step")


class LateDrills(Hook):
    """Strikes before a step. Runs after all other hooks: a rank that sleeps here is late in a step already started."""

    name = "late_drills"

    def pre_step(self, loop: LoopState, batch: Batch) -> None:
        """Strike when a batch is loaded and nothing of the step is computed."""
        fault("loop.before_step")
