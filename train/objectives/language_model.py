"""Next-token prediction, the pretraining objective: the mean loss over all labels.

Shapes: B samples, T tokens, S = T + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from curriculum.tokens.tokens import IGNORED, Tokens
from models.attention import Documents, on_device
from models.losses.cross_entropy import TokenLosses
from train.objectives.objective import Objective

if TYPE_CHECKING:
    from curriculum.tokens.samples import Samples
    from train.engine import Engine
    from train.settings import TrainSettings
    from train.tracking import Record


class MicroBatch(NamedTuple):
    """Input of one forward pass."""

    ids_BS: Tensor
    """int64; the last micro-batch of a step may end with padding rows, whose loss is zero."""
    documents: Documents
    """Documents of the inputs, ids_BS[:, :-1]."""


class LanguageModel(Objective):
    """The loss of a label is -log p(label | preceding tokens of its document)."""

    name = "language_model"

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens

    @classmethod
    def of(cls, settings: TrainSettings, tokens: Samples) -> LanguageModel:
        """Return the objective; it has no settings."""
        return cls(cast(Tokens, tokens))  # open_inputs rejects pairs

    def micro_batch(self, ids: Sequence[int], size: int) -> MicroBatch:
        """Return samples as a micro-batch; padding rows are IGNORED."""
        rows = np.full((size, self.tokens.seq_len + 1), IGNORED, dtype=np.int64)
        if ids:
            rows[: len(ids)] = self.tokens.sample(ids)
        ids_BS = torch.from_numpy(rows)
        return MicroBatch(ids_BS, Documents.of(ids_BS[:, :-1], self.tokens.end_of_text))

    def losses(self, engine: Engine, micro_batch: MicroBatch) -> TokenLosses:
        """Return the loss of every label and their sum."""
        losses: TokenLosses = engine(on_device(micro_batch.ids_BS, engine.world.device), micro_batch.documents)
        return losses

    def summary(self, loss: float) -> Record:
        """Return the mean loss per label and its perplexity."""
        return {"train/loss": loss, "train/ppl": float(torch.tensor(loss).exp())}
