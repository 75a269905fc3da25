"""What scoring asks of a model, ours or another's."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

from models.attention import Documents


class LossModel(Protocol):
    """A model that says what each token costs. Shapes: B samples, T tokens, S = T + 1."""

    @property
    def vocab_size(self) -> int:
        """Number of tokens that it knows."""

    def parameter_count(self) -> int:
        """Return the number of its parameters, shared ones once."""

    def losses(self, ids_BS: Tensor, documents: Documents | None = None) -> Tensor:
        """Return the loss in nats of every label `ids_BS[:, 1:]`, float32 [B, T], without gradients.

        `ids_BS` is int64; each label is predicted from its own document alone. IGNORED (models/losses/cross_entropy.py) may fill the
        right end of a row: such labels cost 0. `documents` are those of the inputs; None: the model's end-of-text
        tells them apart.
        """
