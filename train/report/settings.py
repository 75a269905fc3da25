"""Settings of `pdpc report`."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from train.config.typed import quoted
from train.records.run_json import read_run
from train.settings.run import ARM_NAME, ARM_NAMES

WANDB = "wandb:"
"""Prefix of the address of a run in W&B."""
PLAIN_KEY = re.compile(r"[A-Za-z_][\w-]*|[1-9](?:_?\d)+|\d", re.ASCII)
"""Names that Hydra reads as they are in a key, `runs.2024_06_01`; in a mapping, that one is a number."""
FRACTION = re.compile(r"\d[\d_]*(?:\.[\d_]*(?:e[+-]?\d+)?|e[+-]?\d+)", re.ASCII | re.IGNORECASE)
"""Of the other names, those that are numbers in a mapping: `{1.10: ...}`."""


@dataclass(frozen=True)
class ReportSettings:
    """Which runs to compare, with which baseline, and where to write the page."""

    runs: dict[str, Any] = field(default_factory=dict)
    """Arm name to run folder, or to a list of run folders that differ only in the seed; wandb:ENTITY/PROJECT/RUN_ID
    reads a run from W&B. Must contain the baseline and at least one other arm. `pdpc report RUN RUN` takes the names of
    the arms from the runs."""
    baseline: str = "shuffled"
    """Arm in `runs` that the others are compared with."""
    output: str = "report.html"
    """The page. The numbers are written next to it as .json and .csv."""
    title: str = "Preference curriculum compared with the shuffled baseline"
    """Heading of the page."""
    target: str | None = None
    """Source that an arm is meant to help: its held-out loss is the primary measure, and the loss on all held-out text
    the price. Name it before the runs are made. null: the loss on all held-out text is the primary measure."""
    seed_deviation: float | None = None
    """Standard deviation of the held-out loss over the seeds of one arm, nats per token, from earlier runs. It says how
    many seeds would show a difference of the observed size; no interval uses it. null: from arms with several seeds."""
    figures: bool = False
    """Also write each figure as an .svg file, to a folder next to the page (report_figures for report.html)."""

    wandb: bool = False
    """Write no page; send metrics.jsonl of each run to W&B as one clean run: `pdpc report RUN --wandb`."""
    workspace: bool = False
    """With `wandb`: also create a W&B workspace and a W&B report for these runs (pip install 'pdpc[workspace]')."""

    @property
    def places(self) -> dict[str, list[str]]:
        """Arm name to the locations of its runs."""
        return {name: [str(run) for run in _listed(runs)] for name, runs in self.runs.items()}

    def __post_init__(self) -> None:
        for name, runs in self.runs.items():
            _check_arm(name, runs)
        if self.workspace and not self.wandb:
            raise ValueError("workspace=true requires W&B: add wandb=true (pdpc report RUN --wandb --workspace)")
        if self.wandb:
            if not self.runs:
                raise ValueError("wandb=true needs a run: give its folder, pdpc report RUN --wandb")
            for place in (place for places in self.places.values() for place in places):
                if place.startswith(WANDB):
                    raise ValueError(f"wandb=true replays RUN folders, and {place} is already in W&B: give a folder")
            return
        if len(self.runs) < 2:
            raise ValueError(
                f"runs names {len(self.runs)} run(s) ({', '.join(self.runs) or 'none'}): a comparison needs the "
                f"baseline and at least one other arm, e.g. runs.{self.baseline or 'shuffled'}=FOLDER runs.pdpc=FOLDER"
            )
        if self.baseline not in self.runs:
            raise ValueError(
                f"baseline={self.baseline!r} is not among the runs ({', '.join(self.runs)}): choose one of them, or "
                f"add runs.{self.baseline or 'NAME'}=FOLDER"
            )
        if not self.output.endswith(".html"):
            raise ValueError(
                f"output={self.output!r} does not end in .html: give a file name for the page, e.g. report.html"
            )
        if self.seed_deviation is not None and not self.seed_deviation > 0:
            raise ValueError(f"seed_deviation={self.seed_deviation} must be above 0 nats per token, or null")
        if not self.title.strip():
            raise ValueError("title is empty: give the page a heading")


def named_by_arm(words: Sequence[str]) -> list[str]:
    """Return RUN folders as overrides of `runs`, under the arm that each run records; one arm's are its seeds.

    Raises ValueError for a run in W&B, whose arm is not known here, and ArtifactError for what is not a RUN folder.
    """
    runs: dict[str, list[str]] = {}
    for word in words:
        if word.startswith(WANDB):
            raise ValueError(f"{word} needs the name of its arm: write runs.NAME={word}")
        runs.setdefault(str(read_run(Path(word))["arm"]), []).append(word)
    return [_override(name, places) for name, places in runs.items()]


def _override(name: str, places: list[str]) -> str:
    """Return an arm's runs as an override; ValueError, with the words to type, if its name cannot be part of one."""
    text = ",".join(map(quoted, places))
    text = text if len(places) == 1 else f"[{text}]"
    if PLAIN_KEY.fullmatch(name):
        _check_arm(name, places)
        return f"runs.{name}={text}"
    valid = ARM_NAME.fullmatch(name)
    if not valid or FRACTION.fullmatch(name):
        why = "is read as a number there" if valid else f"is not a valid arm name there ({ARM_NAMES})"
        raise ValueError(f"{places[0]} has arm={name!r}, which {why}: name it, runs.NAME={text}")
    _check_arm(name, places)
    return f"runs={{{name}: {text}}}"


def _check_arm(name: str, runs: Any) -> None:
    """Raise ValueError unless `name` is a valid arm name and `runs` is a run or a list of distinct runs."""
    if not ARM_NAME.fullmatch(name):
        raise ValueError(f"runs: {name!r} is not a valid arm name: use {ARM_NAMES}")
    places = _listed(runs)
    if not all(isinstance(place, str | int) for place in places):
        raise ValueError(f"runs.{name}={runs!r} is neither a run nor a list of runs: give e.g. runs.{name}=[A,B,C]")
    if not places or not all(places):
        raise ValueError(f"runs.{name} is empty: give a run folder, e.g. runs.{name}=runs/{name}")
    twice = sorted({place for place in places if places.count(place) > 1})
    if twice:
        raise ValueError(f"runs.{name} lists {', '.join(twice)} twice: each run is one seed, list it once")


def _listed(runs: Any) -> list[Any]:
    return runs if isinstance(runs, list) else [runs]
