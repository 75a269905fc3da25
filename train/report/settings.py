"""Settings of `pdpc report`."""

import re
from dataclasses import dataclass, field
from typing import Any

WANDB = "wandb:"
"""What the address of a run in W&B begins with."""
ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,39}")


@dataclass(frozen=True)
class ReportSettings:
    """Which runs to set side by side, against which baseline, and where the page goes."""

    runs: dict[str, Any] = field(default_factory=dict)
    """Arm name to run folder, or to a list of folders that differ in the seed alone; wandb:ENTITY/PROJECT/RUN_ID is a
    run in W&B. The baseline and at least one arm more."""
    baseline: str = "shuffled"
    """Name of the arm in `runs` that the others are held against."""
    output: str = "report.html"
    """The page. Its numbers are written beside it with the endings .json and .csv."""
    title: str = "Preference curriculum beside the shuffled baseline"
    """Heading of the page."""
    figures: bool = False
    """Also write every picture as an .svg file, in a folder beside the page (report_figures for report.html)."""

    wandb: bool = False
    """Draw no page; send metrics.jsonl of each run to W&B, as one clean run: `pdpc report RUN --wandb`."""
    workspace: bool = False
    """With `wandb`: also make a W&B workspace and a W&B report of these runs (pip install 'pdpc[workspace]')."""

    @property
    def places(self) -> dict[str, list[str]]:
        """Where the runs of every arm lie."""
        return {name: [str(run) for run in _listed(runs)] for name, runs in self.runs.items()}

    def __post_init__(self) -> None:
        for name, runs in self.runs.items():
            _check_arm(name, runs)
        if self.workspace and not self.wandb:
            raise ValueError("workspace=true is W&B's: add wandb=true (pdpc report RUN --wandb --workspace)")
        if self.wandb:
            if not self.runs:
                raise ValueError("wandb=true names no run: give its folder, pdpc report RUN --wandb")
            for place in (place for places in self.places.values() for place in places):
                if place.startswith(WANDB):
                    raise ValueError(f"wandb=true replays RUN folders: {place} is in W&B already")
            return
        if len(self.runs) < 2:
            raise ValueError(
                f"runs names {len(self.runs)} run(s) ({', '.join(self.runs) or 'none'}): a comparison needs the "
                f"baseline and at least one arm more, e.g. runs.{self.baseline or 'shuffled'}=FOLDER runs.pdpc=FOLDER"
            )
        if self.baseline not in self.runs:
            raise ValueError(
                f"baseline={self.baseline!r} is none of the runs ({', '.join(self.runs)}): name one of them, or add "
                f"runs.{self.baseline or 'NAME'}=FOLDER"
            )
        if not self.output.endswith(".html"):
            raise ValueError(
                f"output={self.output!r} does not end in .html: give the page's file name, e.g. report.html"
            )
        if not self.title.strip():
            raise ValueError("title is empty: give the page a heading")


def _check_arm(name: str, runs: Any) -> None:
    """Raise ValueError unless `runs` is a run, or a list of different runs, and the name is one for an arm."""
    if not ARM_NAME.fullmatch(name):
        raise ValueError(
            f"runs: {name!r} is not an arm name: use at most 40 letters, digits and _ . + - "
            "with a letter or digit first"
        )
    places = _listed(runs)
    if not all(isinstance(place, str | int) for place in places):
        raise ValueError(f"runs.{name}={runs!r} is neither a run nor a list of runs: give e.g. runs.{name}=[A,B,C]")
    if not places or not all(places):
        raise ValueError(f"runs.{name} is empty: give the folder of the run, e.g. runs.{name}=runs/{name}")
    twice = sorted({place for place in places if places.count(place) > 1})
    if twice:
        raise ValueError(f"runs.{name} names {', '.join(twice)} twice: a run is one seed, name it once")


def _listed(runs: Any) -> list[Any]:
    return runs if isinstance(runs, list) else [runs]
