"""Hooks: methods that the loop calls at fixed points. The names follow OLMo-core's callbacks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from models.losses.cross_entropy import TokenLosses
    from train.batches import Batch
    from train.loop_state import LoopState
    from train.tracking import Record


class Hook:
    """Does nothing at any point. Every rank has the same hooks and calls them in the same order."""

    name: str = "hook"
    """Key of its state in a checkpoint; must be unique."""

    def pre_train(self, loop: LoopState) -> None:
        """Once, after a checkpoint was loaded or the weights were initialised."""

    def pre_step(self, loop: LoopState, batch: Batch) -> None:
        """Before the first forward pass of a step."""

    def post_forward(self, loop: LoopState, batch: Batch, index: int, losses: TokenLosses) -> TokenLosses | None:
        """After the forward pass of micro-batch `index`. Return None or new losses, as in PyTorch's forward hooks.

        Losses are device tensors: do not sync with the host here.
        """
        return None

    def pre_optim_step(self, loop: LoopState) -> Tensor | None:
        """After the last backward pass of a step. Return None, or a device scalar that is nonzero to skip the update.

        Every rank must return the same value.
        """
        return None

    def post_optim_step(self, loop: LoopState) -> None:
        """After the update or its skipping; the step is not counted yet."""

    def post_step(self, loop: LoopState, batch: Batch) -> None:
        """After the update or its skipping (`loop.left_out`); `loop.progress` includes the step."""

    def metrics(self, loop: LoopState) -> Record:
        """At a logging step: values for the record. Every rank calls it; collectives and host syncs are allowed."""
        return {}

    def post_checkpoint(self, loop: LoopState, folder: Path) -> None:
        """After a checkpoint was renamed into place."""

    def post_restore(self, loop: LoopState, state: dict[str, Any] | None) -> None:
        """After a rollback to an earlier checkpoint; `state` is the hook's state there, if any."""

    def close(self, loop: LoopState) -> None:
        """At the end, also after an error. Must not wait for other ranks."""

    def state(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, as JSON values; the checkpoint stores that of rank 0."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned in the previous attempt."""
