"""Scoring: the mean token loss of every sample under each reference model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from curriculum.artifact import create, reusable
from curriculum.progress import SampleProgress
from curriculum.score_table import show
from curriculum.scores import KIND, Scores, write_slice
from curriculum.tokens import Tokens

if TYPE_CHECKING:
    from models.loss_model import LossModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reference:
    """A reference model and where it comes from."""

    model: LossModel
    fingerprint: str
    tokenizer_fingerprint: str | None
    trained_on: str | None
    """Fingerprint of the slice that it was trained on, where that is known."""
    way: str = "the decoder"
    """What computes it."""


def write_scores(
    folder: Path,
    tokens: Mapping[str, Tokens],
    references: Mapping[str, Callable[[], Reference]],
    identities: Mapping[str, str],
    *,
    batch_size: int,
    precision: str,
) -> Scores:
    """Score every sample of every slice under every model into a SCORES folder, or open it when it is there.

    `references` are loaders and `identities` their fingerprints, so that a whole folder is recognised without loading a
    model.
    """
    inputs = {f"tokens/{name}": part.fingerprint for name, part in tokens.items()}
    inputs |= {f"model/{name}": identity for name, identity in identities.items()}
    first = next(iter(tokens))
    if reusable(folder, KIND, config={"precision": precision}, inputs=inputs):
        log.info("scores %s are whole and made of the same: reused", folder)
        return Scores.open(folder, first)
    models = {}
    for name, load in references.items():
        models[name] = load()
        log.info("model %r is scored by %s", name, models[name].way)
    warnings = [warning for name, model in models.items() for warning in _check(name, model, tokens)]
    for warning in warnings:
        log.warning(warning)
    with create(folder, KIND, config={"precision": precision}, inputs=inputs) as draft:
        for name, part in tokens.items():
            losses = {
                model: score_samples(reference.model, part, batch_size, f"{name} under {model}")
                for model, reference in models.items()
            }
            write_slice(draft.path, name, losses, part.real_tokens(np.arange(len(part))))
        draft.facts.update(models={name: _describe(model) for name, model in models.items()}, warnings=warnings)
    scores = Scores.open(folder, first)
    show(scores, tokens[first], Console())
    return scores


def _check(name: str, model: Reference, tokens: Mapping[str, Tokens]) -> list[str]:
    """Raise ValueError when a model cannot read the tokens; return warnings about what its scores mean."""
    warnings = []
    for slice, part in tokens.items():
        if model.tokenizer_fingerprint is not None and model.tokenizer_fingerprint != part.tokenizer_fingerprint:
            raise ValueError(
                f"model {name!r} was trained with another tokenizer ({model.tokenizer_fingerprint}) than {part.folder} "
                f"({part.tokenizer_fingerprint}): prepare the text with the model's tokenizer, or choose another model"
            )
        if model.model.vocab_size < part.vocab_size:
            raise ValueError(
                f"model {name!r} knows {model.model.vocab_size} tokens, {part.folder} uses {part.vocab_size}: "
                "choose a model of the same tokenizer"
            )
        if model.trained_on == part.fingerprint:
            warnings.append(
                f"model {name!r} was trained on slice {slice!r}, which it now scores: "
                "its losses measure memory as much as difficulty; train it on the reference slice"
            )
    return warnings


def _describe(model: Reference) -> dict[str, object]:
    return {
        "fingerprint": model.fingerprint,
        "parameters": model.model.parameter_count(),
        "trained_on": model.trained_on,
        "scored_by": model.way,
    }


def score_samples(model: LossModel, tokens: Tokens, batch_size: int, title: str) -> NDArray[np.float32]:
    """Return the mean loss (nats) over the real tokens of every sample, float32 [len(tokens)]."""
    losses_N = np.empty(len(tokens), dtype=np.float32)
    real_N = tokens.real_tokens(np.arange(len(tokens)))
    with SampleProgress(Console(stderr=True), f"score {title}", len(tokens)) as progress:
        for start in range(0, len(tokens), batch_size):
            ids = np.arange(start, min(start + batch_size, len(tokens)))
            losses_N[ids] = mean_losses(model, tokens, ids)
            progress.add(len(ids), int(real_N[ids].sum()))
    return losses_N


def mean_losses(model: LossModel, tokens: Tokens, ids: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the mean loss (nats) over the real tokens of the samples `ids`, float32 [n], which are one batch."""
    import torch

    losses_BT = model.losses(torch.from_numpy(tokens.sample(ids)))
    sums_B = losses_BT.sum(dim=1, dtype=torch.float64).cpu().numpy()
    result: NDArray[np.float32] = (sums_B / np.maximum(tokens.real_tokens(ids), 1)).astype(np.float32)
    return result
