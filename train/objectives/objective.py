"""The interface of objectives, and how one is chosen. The loop and the engine know no other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from train.hooks.hook import Hook
from train.settings import OBJECTIVES, TrainSettings

if TYPE_CHECKING:
    from typing import Self

    from curriculum.tokens.tokens import Tokens
    from models.losses.cross_entropy import TokenLosses
    from train.engine import Engine
    from train.loop_state import LoopState
    from train.tracking import Record


class Objective(Hook, ABC):
    """Decides what a forward pass reads and what it costs.

    A hook as well, the last to be called: what it needs before training, its state in checkpoints and what it adds to
    a record have their moments there. Methods that take no loop may not wait for other ranks.
    """

    @classmethod
    @abstractmethod
    def of(cls, settings: TrainSettings, tokens: Tokens) -> Self:
        """Return the objective of a run on these samples. Raises ValueError when settings and data do not fit."""

    @abstractmethod
    def micro_batch(self, ids: Sequence[int], size: int) -> Any:
        """Return `size` samples as `losses` takes them, on the host; those for which there is no id cost nothing.

        Called in another thread, a step ahead.
        """

    def count(self, samples: int, labels: int) -> int:
        """Return what the loss of a global batch is divided by: here its labels."""
        return labels

    @abstractmethod
    def losses(self, engine: Engine, micro_batch: Any) -> TokenLosses:
        """Run a micro-batch forward, without a host sync.

        `total` goes backward, divided by `count`; `losses_BT` has one row per sample, those that fill up included, and
        a row's sum is the loss that is reported. The engine may be called more than once, with positions and weights as
        in `Decoder.forward`: all calls but the last under torch.no_grad().
        """

    def reached(self, loop: LoopState) -> bool:
        """Tell whether the run ends here, before its order does. Asked more than once per step, and of a resumed run,
        after `load_state`, before its first; every rank must give the same answer."""
        return False

    def summary(self, loss: float) -> Record:
        """Return what a record says of the mean loss since the last one, NaN if no step moved the weights."""
        return {"train/loss": loss}


def objective_of(settings: TrainSettings, tokens: Tokens) -> Objective:
    """Return the objective that the settings name."""
    module, _, name = OBJECTIVES[settings.objective].partition(":")
    made: Objective = getattr(import_module(module), name).of(settings, tokens)
    return made
