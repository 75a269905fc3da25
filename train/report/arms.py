"""Arms: runs that differ only in the seed form one side of the comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from train.report.records import Run, read_run, read_wandb
from train.report.settings import WANDB


@dataclass(frozen=True)
class Arm:
    """One side of a comparison: a run, or several runs that differ only in the seed."""

    name: str
    runs: list[Run]
    """Sorted by seed; each has a unique name."""

    @property
    def seeds(self) -> list[int | None]:
        """The seed of every run."""
        return [run.seed for run in self.runs]

    @property
    def finished(self) -> bool:
        """Whether every run has finished."""
        return all(run.finished for run in self.runs)

    @property
    def tokens(self) -> int:
        """Tokens trained on by the furthest run."""
        return max(run.tokens for run in self.runs)


def read_arm(name: str, places: Sequence[str]) -> Arm:
    """Read the runs of an arm, RUN folders or `wandb:ENTITY/PROJECT/RUN_ID`. Raises as read_run and read_wandb do."""
    read = [read_wandb(name, place) if place.startswith(WANDB) else read_run(name, Path(place)) for place in places]
    return arm_of(name, read)


def arm_of(name: str, runs: Sequence[Run]) -> Arm:
    """Return the runs as an arm, sorted by seed. Several runs are named after their seed, or else their position."""
    if len(runs) == 1:
        return Arm(name, [replace(runs[0], name=name)])
    seeds = [run.seed for run in runs]
    if None in seeds or len(set(seeds)) < len(seeds):
        return Arm(name, [replace(run, name=f"{name} run {number}") for number, run in enumerate(runs, start=1)])
    ordered = sorted(runs, key=lambda run: run.seed or 0)
    return Arm(name, [replace(run, name=f"{name} seed {run.seed}") for run in ordered])


def paired(first: Sequence[Run], second: Sequence[Run]) -> bool:
    """Tell whether the runs of two arms form pairs: one run each, or the same distinct seeds in the same order."""
    if len(first) != len(second):
        return False
    seeds = [run.seed for run in first]
    known = None not in seeds and len(set(seeds)) == len(seeds)
    return len(first) == 1 or (known and seeds == [run.seed for run in second])


def counted(seeds: int) -> str:
    """Return a number of seeds in words: 1 seed, 3 seeds."""
    return f"{seeds} seed{'s' if seeds != 1 else ''}"
