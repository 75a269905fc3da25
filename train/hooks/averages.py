"""The running average of the weights, kept on the ranks that own the float32 weights and in every checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from train.hooks.hook import Hook
from train.settings import AveragingSettings

if TYPE_CHECKING:
    from train.batches import Batch
    from train.loop_state import LoopState


def decay_of(settings: AveragingSettings, updates: int) -> float:
    """Return the decay of the average's next update: smaller at first, so that the initial weights soon lose weight.

    min(decay, (1 + n) / (10 + n)) after n updates, as in TensorFlow's ExponentialMovingAverage with num_updates.
    """
    return min(settings.decay, (1 + updates) / (10 + updates))


class RunningAverage(Hook):
    """Updates the average every n steps, without a host-device sync and without touching the training weights."""

    name = "averages"

    def __init__(self, settings: AveragingSettings) -> None:
        self._settings = settings
        self._updates: int | None = None
        """None: no checkpoint had an average, so it starts from the weights."""

    def pre_train(self, loop: LoopState) -> None:
        """Start from the weights, unless a checkpoint had an average."""
        if self._updates is not None:
            return
        self._updates = 0
        for fragment in loop.engine.fragments():  # views without gradients
            fragment.tensors["ema"].copy_(fragment.tensors["param"])

    def post_step(self, loop: LoopState, batch: Batch) -> None:
        """Update the average after every n-th step."""
        if loop.progress.step % self._settings.every:
            return
        assert self._updates is not None
        decay = decay_of(self._settings, self._updates)
        with torch.no_grad():
            for fragment in loop.engine.fragments():
                fragment.tensors["ema"].lerp_(fragment.tensors["param"], 1.0 - decay)
        self._updates += 1

    def post_restore(self, loop: LoopState, state: dict[str, Any] | None) -> None:
        """Restore the average of the checkpoint that the weights were restored from; start again if it has none."""
        self._updates = None if state is None else int(state["updates"])
        self.pre_train(loop)

    def state(self) -> dict[str, Any]:
        """Return the number of updates of the average."""
        return {"updates": self._updates or 0}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue the checkpoint's average, which is already in the fragments."""
        self._updates = int(state["updates"])
