"""The interface of a model that scores, ours or a foreign one."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from models.attention import Documents


class LossModel(Protocol):
    """A model that returns per-token losses. Shapes: B samples, T tokens, S = T + 1."""

    @property
    def vocab_size(self) -> int:
        """Size of the vocabulary."""

    def parameter_count(self) -> int:
        """Return the number of parameters; shared ones count once."""

    def losses(self, ids_BS: Tensor, documents: Documents | None = None) -> Tensor:
        """Return the loss in nats of every label `ids_BS[:, 1:]`, float32 [B, T], without gradients.

        `ids_BS` is int64; each label is predicted only from its own document. Rows may be right-padded with IGNORED
        (models/kernels/interface.py); those labels cost 0, as does a label that the model takes as input only.
        `documents` are those of the inputs; if None, they are found by the model's end-of-text token.
        """
