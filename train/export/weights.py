"""Which weights of a run are exported or evaluated: the last, their running average, or the mean of the last few.

Averaging does for the end of a run what a decay of the learning rate does, without taking late data's effect away
(docs/schedules.md). The running average is kept while a run trains (train/hooks/averages.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from curriculum.artifact.files import ArtifactError
from models.config import DecoderConfig
from train import checkpoint
from train.resume.runfolder import CHECKPOINTS, read_run

KIND_OF = {"last": "param", "running": "ema"}


@dataclass(frozen=True)
class ChosenWeights:
    """Checkpoints of a run, whole, and what of them is taken."""

    sources: list[Path]
    """Newest first."""
    weights: str
    """One of WEIGHTS."""

    @property
    def how(self) -> str:
        """What the weights are, in a few words."""
        what = "running average" if self.weights == "running" else "trained"
        if len(self.sources) == 1:
            return f"{what}, step {checkpoint.step_of(self.sources[0])}"
        steps = ", ".join(str(checkpoint.step_of(folder)) for folder in reversed(self.sources))
        return f"mean of the checkpoints of steps {steps}"

    @property
    def name(self) -> str:
        """A name for a file: the newest step, and how its weights were chosen."""
        count = len(self.sources)
        return self.sources[0].name + ("_running" * (self.weights == "running") or f"_mean_of_{count}" * (count > 1))

    def read(self) -> tuple[DecoderConfig, dict[str, Tensor]]:
        """Return the decoder's configuration and its float32 weights by name.

        Checkpoints are read one after the other and added up in float64: memory for three models, whatever their
        number. Raises ArtifactError naming what is damaged, before any of it is used.
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


def choose_weights(run_folder: Path, weights: str = "last", average: int = 1) -> ChosenWeights:
    """Return the newest `average` whole checkpoints of a run; damaged ones are named in the log and passed over.

    Raises ArtifactError when there are not so many, or they hold no running average that was asked for.
    """
    read_run(run_folder)
    found: list[Path] = []
    for folder, manifest in checkpoint.whole(run_folder / CHECKPOINTS):
        if weights == "running" and "averages" not in manifest.facts.get("hooks", {}):
            raise ArtifactError(
                f"weights=running: {folder} holds no running average: train the run with averaging.decay above 0, for "
                "example 0.999, or take the mean of its last checkpoints with average=3"
            )
        found.append(folder)
        if len(found) == average:
            break
    if not found:
        raise ArtifactError(f"run {run_folder} has no whole checkpoint yet: let it reach the end of its first stage")
    if len(found) < average:
        raise ArtifactError(
            f"average={average} asks for more whole checkpoints than run {run_folder} has ({len(found)}): ask for "
            "fewer, or train with checkpoints.keep_last set to as many"
        )
    return ChosenWeights(found, weights)
