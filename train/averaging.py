"""Which weights of a run are exported or evaluated: the last, their running average, or the mean of the last few.

Averaging does for the end of a run what a decay of the learning rate does, without taking late data's effect away
(docs/schedules.md). The running average is kept while a run trains (train/hooks/averages.py).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from curriculum.artifact import ArtifactError, open_manifest
from models.config import DecoderConfig
from train import checkpoint
from train.runfolder import CHECKPOINTS, read_run

log = logging.getLogger(__name__)

WEIGHTS = ("last", "running")
"""Which weights of a checkpoint: those that were trained, or their running average."""


@dataclass(frozen=True)
class ChosenWeights:
    """Float32 weights by name, and the checkpoints that they were made of."""

    config: DecoderConfig
    state: dict[str, Tensor]
    sources: list[Path]
    """Newest first."""
    how: str
    """What the weights are, in a few words."""


def chosen_weights(run_folder: Path, weights: str = "last", average: int = 1) -> ChosenWeights:
    """Return the weights of a run: of its newest whole checkpoint, its running average, or the mean of the newest.

    `average` checkpoints are read one after the other and added up in float64: memory for three models, whatever their
    number. Raises ArtifactError when there are not so many whole ones, or none holds a running average.
    """
    read_run(run_folder)
    kind = "ema" if weights == "running" else "param"
    found: list[Path] = []
    total: dict[str, Tensor] = {}
    config: DecoderConfig | None = None
    for folder in checkpoint.candidates(run_folder / CHECKPOINTS):
        if len(found) == average:
            break
        try:
            if weights == "running" and "averages" not in open_manifest(folder, checkpoint.KIND).facts.get("hooks", {}):
                break
            config, state = checkpoint.read_weights(folder, kind)
        except (ArtifactError, OSError) as error:
            log.warning("checkpoint passed over: %s", error)
            continue
        found.append(folder)
        if average == 1:
            total = state
            break
        for name, tensor in state.items():
            total[name] = total[name].add_(tensor) if name in total else tensor.double()
    if config is None or len(found) < average:
        raise ArtifactError(_too_few(run_folder, len(found), weights, average))
    if average > 1:
        total = {name: tensor.div_(average).float() for name, tensor in total.items()}
    what = "the running average of its weights" if weights == "running" else "its weights"
    how = f"{what} at step {checkpoint.step_of(found[0])}"
    if average > 1:
        steps = ", ".join(str(checkpoint.step_of(folder)) for folder in reversed(found))
        how = f"the mean of {what} at steps {steps}"
    return ChosenWeights(config, total, found, how)


def _too_few(run_folder: Path, found: int, weights: str, wanted: int) -> str:
    if weights == "running" and checkpoint.candidates(run_folder / CHECKPOINTS):
        return f"run {run_folder} keeps no running average: train it with averaging.decay above 0, for example 0.999"
    if found == 0:
        return f"run {run_folder} has no whole checkpoint yet: let it reach the end of its first stage"
    return (
        f"average={wanted} asks for more whole checkpoints than run {run_folder} has ({found}): ask for fewer, or "
        "train with checkpoints.keep_last set to as many"
    )


def check_choice(weights: str, average: int) -> None:
    """Raise ValueError for a choice of weights that cannot be."""
    if weights not in WEIGHTS:
        raise ValueError(f"weights={weights!r} is unknown: use one of {', '.join(WEIGHTS)}")
    if average < 1:
        raise ValueError(f"average={average} must be at least 1 checkpoint")
    if average > 1 and weights == "running":
        raise ValueError(f"average={average} is of the trained weights: leave out weights=running, or average")
