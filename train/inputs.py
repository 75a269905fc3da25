"""The door: what a run reads, opened and checked against its settings before anything starts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curriculum.artifact import ArtifactError
from curriculum.order import Order
from curriculum.scores import Scores
from curriculum.tokens import Tokens
from models.config import DecoderConfig
from train.harness import check_tasks
from train.settings import TrainSettings

VALIDATION = "validation"


@dataclass(frozen=True)
class Inputs:
    """What a run reads."""

    order: Order
    tokens: Tokens
    """The slice that the order arranges."""
    validation: Tokens
    pd: NDArray[np.float32] | None
    """PD of the validation samples, when scores are given."""
    decoder: DecoderConfig
    fingerprints: dict[str, str | None]


def open_inputs(settings: TrainSettings) -> Inputs:
    """Open TOKENS, ORDER and SCORES. Raises ArtifactError or ValueError naming what does not fit, and the mend."""
    check_tasks(settings.benchmarks)
    order = Order.open(settings.data.order)
    tokens = Tokens.open(settings.data.tokens, order.manifest.facts["slice"])
    arranged = order.manifest.inputs["tokens"]
    if arranged != tokens.fingerprint:
        raise ArtifactError(
            f"{settings.data.order} arranges other tokens ({arranged}) than {settings.data.tokens} "
            f"slice {order.manifest.facts['slice']!r} ({tokens.fingerprint}): run pdpc arrange on these tokens"
        )
    validation = Tokens.open(settings.data.tokens, VALIDATION)
    scores = None
    if settings.data.scores is not None:
        scores = Scores.open(settings.data.scores, VALIDATION)
        scores.check(validation)
    decoder = settings.model.decoder_config(tokens.vocab_size, tokens.seq_len, tokens.end_of_text)
    fingerprints = {
        "tokens": tokens.fingerprint,
        "order": order.fingerprint,
        "tokenizer": tokens.tokenizer_fingerprint,
        "scores": scores.fingerprint if scores else None,
    }
    return Inputs(order, tokens, validation, scores.column("pd") if scores else None, decoder, fingerprints)
