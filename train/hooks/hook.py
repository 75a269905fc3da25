"""A hook: methods that the loop calls at fixed points. The names follow OLMo-core's callbacks."""

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
    """Does nothing at every point. Every rank has the same hooks and calls them in the same order."""

    name: str = "hook"
    """Key of its state in a checkpoint, unique among hooks."""

    def pre_train(self, loop: LoopState) -> None:
        """Once, after a checkpoint was loaded or the weights were initialized."""

    def pre_step(self, loop: LoopState, batch: Batch) -> None:
        """Before the first forward pass of a step."""

    def post_forward(self, loop: LoopState, batch: Batch, index: int, losses: TokenLosses) -> TokenLosses | None:
        """After the forward pass of micro-batch `index`: None, or replacement losses, as in PyTorch's forward hooks.

        Device tensors: no host-device sync here.
        """
        return None

    def pre_optim_step(self, loop: LoopState) -> Tensor | None:
        """After the last backward pass of a step: None, or a device scalar that is nonzero if the step must be skipped.

        All ranks must return the same value.
        """
        return None

    def post_optim_step(self, loop: LoopState) -> None:
        """After the update, or after it was skipped; the step is not counted yet."""

    def post_step(self, loop: LoopState, batch: Batch) -> None:
        """After the update, or after it was skipped (`loop.left_out`); `loop.progress` includes the step."""

    def metrics(self, loop: LoopState) -> Record:
        """At a logging step: values for the record. Every rank calls it, so collectives and syncs are allowed."""
        return {}

    def post_checkpoint(self, loop: LoopState, folder: Path) -> None:
        """After a checkpoint was renamed into place."""

    def post_restore(self, loop: LoopState, state: dict[str, Any] | None) -> None:
        """After the weights of an earlier checkpoint were restored, with the hook's state there, if it had one."""

    def close(self, loop: LoopState) -> None:
        """At the end, also after an error. Must not wait for other ranks."""

    def state(self) -> dict[str, Any]:
        """Return the state that a resumed run needs, as JSON values; the checkpoint keeps rank 0's."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned in the previous attempt."""
