"""State of a run in progress: what hooks and objectives may read, and the few fields they may set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any

import torch

from train.distributed.signals import Signals
from train.distributed.watchdog import Watchdog
from train.distributed.world import World
from train.engine import Engine
from train.inputs import Inputs
from train.records.consumed import ConsumedFile
from train.settings import TrainSettings
from train.tracking import MetricsFile, Tracker


@dataclass
class Progress:
    """How far a run has come: the whole loop state except the window of the next record."""

    step: int = 0
    """Steps taken: global batches consumed, including those whose update a guard skipped."""
    tokens: int = 0
    """Labels in these steps: what was read and computed, not what moved the weights (`train/records/skipped.py`)."""
    consumed_hash: int = 0
    """Hash of every sample consumed so far, on all ranks (curriculum/order/consumed.py)."""


@dataclass
class Window:
    """Running sums since the last record."""

    loss: torch.Tensor
    """Sum of this rank's losses in nats, over steps that updated the weights; float64, on the device."""
    count: torch.Tensor
    """Divisor of the loss summed over ranks (`Objective.count`), over the same steps; int64, on the device."""
    first_step: int
    waited_s: float = 0.0
    """Seconds the loop spent waiting for data."""

    @classmethod
    def opened(cls, step: int, device: torch.device) -> Window:
        """Return an empty window that starts after `step` steps."""
        loss = torch.zeros((), dtype=torch.float64, device=device)
        return cls(loss, torch.zeros_like(loss, dtype=torch.int64), step)

    def mean_loss(self, world: World) -> float:
        """Return the mean loss over all ranks, NaN if no step updated the weights. One all-reduce and a host sync."""
        total, count = float(world.all_sum(self.loss.clone()).item()), int(self.count)
        return total / count if count else float("nan")

    def state(self, world: World) -> dict[str, Any]:
        """Return the window as JSON values, with the loss of every rank. Call it on every rank."""
        losses = torch.zeros(world.size, dtype=torch.float64, device=world.device)
        losses[world.rank] = self.loss
        tokens = int(self.count)  # key kept for compatibility with older checkpoints
        return {"loss": world.all_sum(losses).tolist(), "tokens": tokens, "first_step": self.first_step}

    def load_state(self, state: dict[str, Any], world: World) -> None:
        """Add what `state` returned, at any world size."""
        losses = state["loss"]
        if len(losses) != world.size:
            losses = [sum(losses), *[0.0] * (world.size - 1)]
        self.loss += losses[world.rank]
        self.count += state["tokens"]
        self.first_step = state["first_step"]


@dataclass
class LoopState(ABC):
    """A run in progress, as hooks and objectives see it."""

    settings: TrainSettings
    inputs: Inputs
    engine: Engine
    world: World
    progress: Progress
    consumed: ConsumedFile
    metrics: MetricsFile | None
    """On rank 0 only."""
    tracker: Tracker
    signals: Signals
    watchdog: Watchdog
    window: Window = field(init=False)
    """Sums for the next record."""
    losses_N: torch.Tensor = field(init=False)
    """Loss of each of this rank's samples in this step, in nats; float64, on the device; set by the last backward."""
    left_out: torch.Tensor = field(init=False)
    """Nonzero if the last update was skipped. Stays on the device, to avoid a host sync."""
    save_due: bool = field(init=False, default=False)
    """Set by a hook, on every rank, to end this step with a checkpoint."""

    def __post_init__(self) -> None:
        self.left_out = torch.zeros((), dtype=torch.float32, device=self.world.device)
        self.window = Window.opened(self.progress.step, self.world.device)

    @property
    def cursor(self) -> int:
        """Samples consumed so far, on all ranks: completed steps only, not prefetched batches."""
        order = self.inputs.order
        return order.cursor_after(self.progress.step)

    @abstractmethod
    def restore(self) -> int | None:
        """Load the weights of the newest checkpoint; return its step, or None if there is none."""
