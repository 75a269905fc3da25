"""A hook: what the loop calls at fixed moments. The names follow OLMo-core's callbacks."""

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
    """Does nothing, at every moment. Every rank has the same hooks and calls them in the same order."""

    name: str = "hook"
    """Key of its state in a checkpoint, one of its own."""

    def pre_train(self, loop: LoopState) -> None:
        """Once, after a checkpoint was loaded or the weights were drawn."""

    def pre_step(self, loop: LoopState, batch: Batch) -> None:
        """Before the first forward pass of a step."""

    def post_forward(self, loop: LoopState, batch: Batch, index: int, losses: TokenLosses) -> TokenLosses | None:
        """After the forward pass of micro-batch `index`: None, or what takes the place of its losses, as in PyTorch's
        forward hooks. Device tensors: no host sync here."""
        return None

    def pre_optim_step(self, loop: LoopState) -> Tensor | None:
        """After the last backward pass of a step: None, or a scalar on the device that is not zero where the step is
        to be left out of the weights. All ranks must answer alike."""
        return None

    def post_optim_step(self, loop: LoopState) -> None:
        """After the update, or after it was left out; the step is not counted yet."""

    def post_step(self, loop: LoopState, batch: Batch) -> None:
        """After the update, or after it was left out (`loop.left_out`); `loop.progress` counts the step."""

    def metrics(self, loop: LoopState) -> Record:
        """At a logging step: values for the record. Every rank calls it, so ranks and host may meet here."""
        return {}

    def post_checkpoint(self, loop: LoopState, folder: Path) -> None:
        """After a checkpoint was published."""

    def post_restore(self, loop: LoopState, state: dict[str, Any] | None) -> None:
        """After the weights of an earlier checkpoint were taken again, with the hook's state there, if it had one."""

    def close(self, loop: LoopState) -> None:
        """At the end, after an error too. Must not wait for other ranks."""

    def state(self) -> dict[str, Any]:
        """Return what a resumed run needs, as JSON values; rank 0's is kept in the checkpoint."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned in the life before."""
