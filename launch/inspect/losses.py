"""What each sample of a step costs a model: the run's own as it stood before the step, or one that is named."""

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
from train.resume.runfolder import CHECKPOINTS

log = logging.getLogger(__name__)

AT_ONCE = 8
"""Samples in one forward pass."""


def losses_of(subject: Subject, step: StepSamples, model: str | None) -> tuple[NDArray[np.float32], str]:
    """Return each sample's mean loss in nats, float32 [B], and which model says so.

    Raises ValueError when there is neither a run nor a model, or no text to read.
    """
    tokens = subject.tokens
    if tokens is None:
        raise ValueError("by_loss=true needs the text: give tokens=FOLDER")
    asked, name = _load(subject, step.number, model, tokens)
    if asked.vocab_size < tokens.vocab_size:
        raise ValueError(
            f"{name} knows {asked.vocab_size} tokens, {tokens.folder} uses {tokens.vocab_size}: give a model "
            "of the same tokenizer"
        )
    parts = [mean_losses(asked, tokens, step.ids_B[start : start + AT_ONCE]) for start in range(0, len(step), AT_ONCE)]
    return np.concatenate(parts), name


def _load(subject: Subject, number: int, model: str | None, tokens: Tokens) -> tuple[LossModel, str]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if model is None:
        if subject.run is None:
            raise ValueError("by_loss=true needs a model: inspect a RUN, or give loss_model=FOLDER")
        source = _before(subject.run.folder / CHECKPOINTS, number)
        done = int(source.name.removeprefix("step_"))
        when = "before" if done < number else "which had read this step already: no earlier one is left"
        return load_decoder(source).to(device), f"the checkpoint of step {done:,}, {when}"
    folder = Path(model)
    if (folder / RUN).is_file():
        source = newest_checkpoint(folder)
        return load_decoder(source).to(device), str(source)
    if (folder / MANIFEST).is_file():
        return load_decoder(folder).to(device), str(folder)
    found, _ = huggingface.load_scorer(
        folder, torch.float32, device, end_of_text=tokens.end_of_text, seq_len=tokens.seq_len
    )
    return found, str(folder)


def _before(checkpoints: Path, number: int) -> Path:
    """Return the newest whole checkpoint that had not read step `number`; where none is left, the oldest whole one."""
    found = checkpoint.candidates(checkpoints)
    early = [folder for folder in found if checkpoint.step_of(folder) < number]
    for folder in [*early, *reversed(found[: len(found) - len(early)])]:
        try:
            checkpoint.verified(folder)
            return folder
        except (ArtifactError, OSError) as error:
            log.warning("checkpoint passed over: %s", error)
    raise ArtifactError(f"{checkpoints} has no whole checkpoint: give loss_model=FOLDER")
