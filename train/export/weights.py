"""Which weights of a run are exported or evaluated: the last, their running average, or the mean of the last few.

Averaging replaces the learning-rate decay at the end of a run, without weakening the effect of late data
(docs/schedules.md). The running average is updated during training (train/hooks/averages.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from curriculum.artifact.files import ArtifactError
from curriculum.artifact.manifest import Manifest
from models.config import DecoderConfig
from train import checkpoint
from train.records.layout import CHECKPOINTS
from train.records.run_json import read_run

KIND_OF = {"last": "param", "running": "ema"}


@dataclass(frozen=True)
class ChosenWeights:
    """Complete checkpoints of a run, and which of their weights are used."""

    sources: list[Path]
    """Newest first."""
    weights: str
    """One of WEIGHTS."""

    @property
    def how(self) -> str:
        """A short description of the weights."""
        what = "running average" if self.weights == "running" else "trained"
        if len(self.sources) == 1:
            return f"{what}, step {checkpoint.step_of(self.sources[0])}"
        steps = ", ".join(str(checkpoint.step_of(folder)) for folder in reversed(self.sources))
        return f"mean of the checkpoints of steps {steps}"

    @property
    def name(self) -> str:
        """A file name: the newest step, and how its weights were chosen."""
        count = len(self.sources)
        return self.sources[0].name + ("_running" * (self.weights == "running") or f"_mean_of_{count}" * (count > 1))

    def read(self) -> tuple[DecoderConfig, dict[str, Tensor]]:
        """Return the decoder's configuration and its float32 weights by name.

        Checkpoints are read one by one and summed in float64: memory for three models, whatever their number. Raises
        ArtifactError naming the damaged file before any of it is used.
        """
        config, state = checkpoint.read_weights(self.sources[0], KIND_OF[self.weights])
        if len(self.sources) == 1:
            return config, state
        total = {name: tensor.double() for name, tensor in state.items()}
        for folder in self.sources[1:]:
            del state
            _, state = checkpoint.read_weights(folder, KIND_OF[self.weights])
            for name, tensor in state.items():
                total[name].add_(tensor)
        return config, {name: tensor.div_(len(self.sources)).float() for name, tensor in total.items()}


def check_running(folder: Path, manifest: Manifest) -> None:
    """Raise ArtifactError unless a checkpoint has a running average."""
    if "averages" not in manifest.facts.get("hooks", {}):
        raise ArtifactError(
            f"weights=running: {folder} has no running average: train the run with averaging.decay above 0, for "
            "example 0.999, or use the mean of its last checkpoints with average=3"
        )


def check_own(folder: Path, manifest: Manifest, facts: Mapping[str, Any]) -> None:
    """Raise ArtifactError for a checkpoint that was copied into a run with another tokenizer: its ids are other text.

    `facts` are those of the run's run.json.
    """
    theirs = manifest.inputs.get("tokenizer")
    if theirs is not None and theirs != facts["fingerprints"].get("tokenizer"):
        raise ArtifactError(
            f"{folder} is a checkpoint of another run: its tokenizer is not the one that run.json of arm "
            f"{facts['arm']} records; remove it, or give the run that it belongs to"
        )


def choose_weights(run_folder: Path, weights: str = "last", average: int = 1) -> ChosenWeights:
    """Return the newest `average` complete checkpoints of a run; damaged ones are logged and skipped.

    Raises ArtifactError when there are too few, when they lack the requested running average, or when one is another
    run's.
    """
    facts = read_run(run_folder)
    found: list[Path] = []
    for folder, manifest in checkpoint.whole(run_folder / CHECKPOINTS):
        check_own(folder, manifest, facts)
        if weights == "running":
            check_running(folder, manifest)
        found.append(folder)
        if len(found) == average:
            break
    if not found:
        raise ArtifactError(f"run {run_folder} has no complete checkpoint yet: let it reach the end of its first stage")
    if len(found) < average:
        raise ArtifactError(
            f"average={average} needs more complete checkpoints than run {run_folder} has ({len(found)}): use fewer, "
            f"or train with checkpoints.keep_last={average}"
        )
    return ChosenWeights(found, weights)
