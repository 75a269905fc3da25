"""Settings of `pdpc evaluate`."""

from __future__ import annotations

from dataclasses import dataclass, field

from train.evaluation.harness.tasks import BenchmarkSettings
from train.evaluation.heldout import HeldoutSettings
from train.export.choice import check_choice

FAILED_STAGES = "failed"


@dataclass(frozen=True)
class EvaluateSettings:
    """Settings of `pdpc evaluate`."""

    run: str | None = None
    """RUN folder; its newest checkpoint is evaluated unless stages is given."""
    stages: str | None = None
    """failed, or a stage number: repeat the run's own stage-end evaluations and update its records."""
    folder: str | None = None
    """Instead of a run: a Hugging Face folder of a Llama model (as pdpc export writes), or a checkpoint folder."""
    tokens: str | None = None
    """With folder: TOKENS whose validation slice is used for held-out loss; null: only benchmarks."""
    output: str | None = None
    """With folder: JSON file for the values; null: only print them."""
    weights: str = "last"
    """last, or running: the running average of a run with averaging.decay."""
    average: int = 1
    """Average the weights of the N newest checkpoints."""
    pack: str | None = None
    """Instead of evaluating: write benchmarks.tasks and their data to this folder, for offline use as a task path."""
    processes: int = 1
    """Number of ranks on this machine."""
    heldout: HeldoutSettings = field(default_factory=HeldoutSettings)
    """Held-out loss."""
    benchmarks: BenchmarkSettings = field(default_factory=BenchmarkSettings)
    """Harness tasks."""

    def __post_init__(self) -> None:
        given = [name for name in ("run", "folder", "pack") if getattr(self, name) is not None]
        if len(given) != 1:
            problem = f"both {' and '.join(given)} are given" if given else "neither run, folder nor pack is given"
            raise ValueError(f"{problem}: give one of run=RUN, folder=FOLDER and pack=FOLDER")
        check_choice(self.weights, self.average)
        chosen = self.weights != "last" or self.average > 1
        if chosen and (self.run is None or self.stages is not None):
            raise ValueError("weights and average apply to a run's newest checkpoints: give run=RUN without stages")
        if self.stages is not None:
            if self.run is None:
                raise ValueError(f"stages={self.stages} needs a run: give run=RUN")
            if self.stages != FAILED_STAGES and not (self.stages.isdecimal() and int(self.stages) > 0):
                raise ValueError(f"stages={self.stages!r} must be failed, or a stage number of at least 1")
        for name in ("tokens", "output"):
            if getattr(self, name) is not None and self.folder is None:
                raise ValueError(f"{name}={getattr(self, name)} is only for folder=FOLDER: leave it out")
        if self.pack is not None and not self.benchmarks.tasks:
            raise ValueError("benchmarks.tasks is empty: give the tasks to pack")
        if self.processes < 1:
            raise ValueError(f"processes={self.processes} must be at least 1")
