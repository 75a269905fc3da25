"""`pdpc evaluate`: held-out loss and benchmarks of a run's checkpoints or of a model, and tasks packed for later.

    pdpc evaluate run=runs/pdpc benchmarks.tasks=[arc_easy]     the newest checkpoint; the run's records stay
    pdpc evaluate run=runs/pdpc stages=failed                   failed stages once more, into the run's records
    pdpc evaluate folder=export tokens=tokens processes=8 ...   a Hugging Face folder, by eight ranks
    pdpc evaluate --pack packs/arc benchmarks.tasks=[arc_easy]  tasks with their data, for a machine without internet

The exit code is 1 when a part of what was asked failed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field

from train.harness_tasks import BenchmarkSettings
from train.heldout import HeldoutSettings
from train.weights import check_choice

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


def run(settings: EvaluateSettings, overrides: Sequence[str] = ()) -> int:
    """Do what is asked, here or with ranks of this machine; return the exit code: 1 when a part of it failed."""
    if settings.pack is not None:
        from pathlib import Path

        from train.harness_pack import write_pack

        write_pack(Path(settings.pack), settings.benchmarks)
        return 0
    if settings.processes == 1:
        import torch

        from launch.evaluation.work import evaluate_asked
        from train.world import World

        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return evaluate_asked(settings, overrides, World(0, 1, 0, 1, device))
    from launch.start import start_ranks

    threads = max(1, (os.cpu_count() or 1) // settings.processes)
    return start_ranks("launch.evaluation", settings.processes, overrides, threads)
