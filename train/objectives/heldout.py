"""What an evaluation of held-out pairs needs to know of the objective."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum.pairs.pairs import Pairs
from curriculum.tokens.samples import Samples
from models.losses.pair_loss import PairLoss
from train.objectives.reference import read_reference
from train.settings import PairLossSettings


def pair_loss_of(settings: Mapping[str, Any]) -> PairLoss:
    """Return the loss that the settings of a run, nested by name, describe."""
    name, given = settings["objective"], PairLossSettings(**settings["pair_loss"])
    return PairLoss(name, *(given.value(key, name) for key in ("beta", "gamma", "ce_weight")))


def pair_questions(
    settings: Mapping[str, Any], run: Path, validation: Samples
) -> tuple[PairLoss | None, NDArray[np.float32] | None]:
    """Return the loss of held-out pairs and the log-probabilities of its reference; None for text."""
    if not isinstance(validation, Pairs):
        return None, None
    return pair_loss_of(settings), read_reference(run, validation) if settings["objective"] == "dpo" else None
