"""Settings of `pdpc report`."""

import re
from dataclasses import dataclass, field

ARM_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]{0,39}")


@dataclass(frozen=True)
class ReportSettings:
    """Which runs to set side by side, against which baseline, and where the page goes."""

    runs: dict[str, str] = field(default_factory=dict)
    """Arm name to run folder; the baseline and at least one arm more."""
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

    def __post_init__(self) -> None:
        for name, folder in self.runs.items():
            if not ARM_NAME.fullmatch(name):
                raise ValueError(
                    f"runs: {name!r} is not an arm name: use at most 40 letters, digits and _ . + - "
                    "with a letter or digit first"
                )
            if not folder:
                raise ValueError(f"runs.{name} is empty: give the folder of the run, e.g. runs.{name}=runs/{name}")
        if self.workspace and not self.wandb:
            raise ValueError("workspace=true is W&B's: add wandb=true (pdpc report RUN --wandb --workspace)")
        if self.wandb:
            if not self.runs:
                raise ValueError("wandb=true names no run: give its folder, pdpc report RUN --wandb")
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
