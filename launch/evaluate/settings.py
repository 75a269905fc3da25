"""What `pdpc evaluate` is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from train.evaluation.harness.tasks import BenchmarkSettings
from train.evaluation.heldout import HeldoutSettings
from train.export.choice import check_choice

FAILED_STAGES = "failed"


@dataclass(frozen=True)
class EvaluateSettings:
    """What `pdpc evaluate` is told."""

    run: str | None = None
    """RUN folder; its newest checkpoint is evaluated, unless stages says otherwise."""
    stages: str | None = None
    """failed, or the number of a stage: ask the run's own questions again and put the answers into its records."""
    folder: str | None = None
    """Instead of a run: a Hugging Face folder of the Llama type (as pdpc export writes), or one checkpoint's folder."""
    tokens: str | None = None
    """With folder: TOKENS whose validation slice gives its held-out loss; null: benchmarks alone."""
    output: str | None = None
    """With folder: JSON file for the values; null: they are only printed."""
    weights: str = "last"
    """last, or running: the running average that a run with averaging.decay keeps."""
    average: int = 1
    """Take the mean of so many newest checkpoints."""
    pack: str | None = None
    """Instead of evaluating: write benchmarks.tasks with their data into this folder, for use in task_paths offline."""
    processes: int = 1
    """Ranks on this machine that share the work."""
    heldout: HeldoutSettings = field(default_factory=HeldoutSettings)
    """Held-out loss."""
    benchmarks: BenchmarkSettings = field(default_factory=BenchmarkSettings)
    """Harness tasks."""

    def __post_init__(self) -> None:
        given = [name for name in ("run", "folder", "pack") if getattr(self, name) is not None]
        if len(given) != 1:
            told = f"both {' and '.join(given)} are given" if given else "neither run, folder nor pack is given"
            raise ValueError(f"{told}: give one of run=RUN, folder=FOLDER and pack=FOLDER")
        check_choice(self.weights, self.average)
        chosen = self.weights != "last" or self.average > 1
        if chosen and (self.run is None or self.stages is not None):
            raise ValueError("weights and average choose among a run's newest checkpoints: give run=RUN without stages")
        if self.stages is not None:
            if self.run is None:
                raise ValueError(f"stages={self.stages} are those of a run: give run=RUN")
            if self.stages != FAILED_STAGES and not (self.stages.isdecimal() and int(self.stages) > 0):
                raise ValueError(f"stages={self.stages!r} must be failed, or the number of a stage from 1")
        for name in ("tokens", "output"):
            if getattr(self, name) is not None and self.folder is None:
                raise ValueError(f"{name} goes with folder=FOLDER: a run names its own")
        if self.pack is not None and not self.benchmarks.tasks:
            raise ValueError("benchmarks.tasks is empty: name what is to be packed")
        if self.processes < 1:
            raise ValueError(f"processes={self.processes} must be at least 1")
