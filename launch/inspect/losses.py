"""Loss of each sample of a step, under the run's own checkpoint from before the step or under a given model."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from curriculum.artifact.files import ArtifactError
from curriculum.artifact.manifest import MANIFEST
from curriculum.audit.step_samples import StepSamples
from curriculum.scores.scorer import mean_losses
from curriculum.tokens.tokens import Tokens
from launch.inspect.settings import RUN
from launch.inspect.subject import Subject
from models import huggingface
from models.losses.loss_model import LossModel
from train import checkpoint
from train.checkpoint.decoder import load_decoder
from train.export.export import newest_checkpoint
from train.records.layout import CHECKPOINTS

log = logging.getLogger(__name__)

AT_ONCE = 8
"""Samples per forward pass."""


def losses_of(subject: Subject, step: StepSamples, model: str | None) -> tuple[NDArray[np.float32], str]:
    """Return each sample's mean loss in nats per token, float32 [B], and the name of the model.

    Raises ValueError if there is neither a run nor a model, or there are no TOKENS.
    """
    tokens = subject.tokens
    if tokens is None:
        raise ValueError("by_loss=true needs the tokens: give tokens=FOLDER")
    loaded, name = _load(subject, step.number, model, tokens)
    if loaded.vocab_size < tokens.vocab_size:
        raise ValueError(
            f"the vocabulary of {name} has {loaded.vocab_size} tokens, that of {tokens.folder} {tokens.vocab_size}: "
            "give a loss_model with the same tokenizer"
        )
    parts = [mean_losses(loaded, tokens, step.ids_B[start : start + AT_ONCE]) for start in range(0, len(step), AT_ONCE)]
    return np.concatenate(parts), name


def _load(subject: Subject, number: int, model: str | None, tokens: Tokens) -> tuple[LossModel, str]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if model is None:
        if subject.run is None:
            raise ValueError("by_loss=true needs a model: inspect a RUN, or give loss_model=FOLDER")
        source = _before(subject.run.folder / CHECKPOINTS, number)
        done = int(source.name.removeprefix("step_"))
        when = "before this step" if done < number else "which has already seen this step: no earlier one is left"
        return load_decoder(source).to(device), f"the checkpoint of step {done:,}, {when}"
    folder = Path(model)
    if (folder / RUN).is_file():
        source = newest_checkpoint(folder)
        return load_decoder(source).to(device), str(source)
    if (folder / MANIFEST).is_file():
        return load_decoder(folder).to(device), str(folder)
    found, _ = huggingface.load_scorer(
        folder,
        torch.float32,
        device,
        end_of_text=tokens.end_of_text,
        input_only=tokens.input_only,
        seq_len=tokens.seq_len,
    )
    return found, str(folder)


def _before(checkpoints: Path, number: int) -> Path:
    """Return the newest intact checkpoint from before step `number`; if none is left, the oldest intact one."""
    found = checkpoint.candidates(checkpoints)
    early = [folder for folder in found if checkpoint.step_of(folder) < number]
    for folder in [*early, *reversed(found[: len(found) - len(early)])]:
        try:
            checkpoint.verified(folder)
            return folder
        except (ArtifactError, OSError) as error:
            log.warning("skipping a damaged checkpoint: %s", error)
    raise ArtifactError(f"{checkpoints} has no intact checkpoint: give loss_model=FOLDER")
