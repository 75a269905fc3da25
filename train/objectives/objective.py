"""The interface of objectives, all that loop and engine know of one, and how one is selected."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

from train.hooks.hook import Hook
from train.settings import OBJECTIVES, TrainSettings

if TYPE_CHECKING:
    from typing import Self

    from curriculum.tokens.samples import Samples
    from models.losses.cross_entropy import TokenLosses
    from train.engine import Engine
    from train.loop_state import LoopState
    from train.tracking import Record


class Objective(Hook, ABC):
    """Decides what a forward pass reads and what its loss is.

    It is also the last hook to be called, which gives it setup before training, state in checkpoints and metrics in
    records. Methods without a loop argument must not wait for other ranks.
    """

    @classmethod
    @abstractmethod
    def of(cls, settings: TrainSettings, tokens: Samples) -> Self:
        """Return the objective of a run on these samples. Raises ValueError if settings and data do not match."""

    @abstractmethod
    def micro_batch(self, ids: Sequence[int], size: int) -> Any:
        """Return `size` samples on the host as input of `losses`; rows beyond `ids` are padding with zero loss.

        Called one step ahead, in another thread.
        """

    def count(self, samples: int, labels: int) -> int:
        """Return the divisor of a global batch's loss, by default its number of labels."""
        return labels

    @abstractmethod
    def losses(self, engine: Engine, micro_batch: Any) -> TokenLosses:
        """Run the forward pass of a micro-batch, without a host sync.

        The backward pass starts from `total` divided by `count`. `losses_BT` has one row per sample, padding included;
        the sum of a row is the reported loss. The engine may be called several times, with positions and weights as in
        `Decoder.forward`; all calls except the last must be under torch.no_grad().
        """

    def reached(self, loop: LoopState) -> bool:
        """Return whether the run ends here, before the end of its order; the same on every rank.

        Called more than once per step, and before the first step (after `load_state` in a resumed run).
        """
        return False

    def summary(self, loss: float) -> Record:
        """Return the metrics for `loss`, the mean since the last record, NaN if no step updated the weights."""
        return {"train/loss": loss}


def objective_of(settings: TrainSettings, tokens: Samples) -> Objective:
    """Return the objective selected by `settings.objective`."""
    module, _, name = OBJECTIVES[settings.objective].partition(":")
    objective: Objective = getattr(import_module(module), name).of(settings, tokens)
    return objective
