"""Settings of `pdpc inspect`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

RUN = "run.json"
"""File that identifies a RUN folder."""
PICTURES = (".svg", ".png")
START, FULL, TEXT_FILE = "start", "full", ".txt"
"""What `text` may be: how each sample's text begins, all of it, or a file to write all of it to."""


@dataclass(frozen=True)
class InspectSettings:
    """Settings of `pdpc inspect`."""

    folder: str
    """Folder of an ORDER or a RUN (shows its order too); for any other artifact, the manifest is shown."""
    verify: bool = False
    """Verify all checksums and, for an order, every step and position."""
    step: int | None = None
    """Show the samples of this step, counted from 1 as in a run's log."""
    samples: int = 6
    """Number of the step's samples to show."""
    text: str = START
    """Text of the samples: start (one line each), full (all of it), or NAME.txt to write all of it to that file."""
    by_loss: bool = False
    """Show the step's samples with the highest loss first, under the run's last checkpoint before the step."""
    loss_model: str | None = None
    """Model for by_loss or hindsight instead of the run's own: a RUN, a checkpoint (by_loss only) or a Hugging Face
    folder, such as an export of averaged weights."""
    hindsight: str | None = None
    """SCORES folder to write or reuse: what a finished run's weights remember of its order, by position and bucket."""
    cut_by: str | None = None
    """Score that cuts the buckets of hindsight, an expression; null: the order's, else pd."""
    buckets: int | None = None
    """Number of buckets of hindsight; null: the order's, else 2."""
    table: str | None = None
    """CSV file to write from hindsight, for preference=table: which bucket is wanted when."""
    prefer: str | None = None
    """Bucket that the table wants where most is remembered; null: every bucket where it is remembered best."""
    tokens: str | None = None
    """TOKENS folder of the order, for sources, documents and text; null: for a run, the path in its record."""
    scores: str | None = None
    """SCORES folder of the order; null: for a run, the path in its record."""
    own_scores: str | None = None
    """Parquet file with your own scores."""
    parent: str | None = None
    """ORDER that a replanned order or a twin was derived from; verify=true then compares the samples of both."""
    preference_code: str | None = None
    """Code outside PDPC that the ORDER was arranged with, FILE.py:CLASS or an entry point's name; verify=true then also
    checks its buckets. It runs only if given here, and only with the checksum recorded in the ORDER."""
    picture: str | None = None
    """Picture of the plan to write, NAME.svg or NAME.png: bucket shares, mean score, source mix; with hindsight, of
    what is remembered."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples={self.samples} must be at least 1")
        if self.text not in (START, FULL) and not self.text.endswith(TEXT_FILE):
            raise ValueError(f"text={self.text} must be {START}, {FULL} or a file to write, NAME{TEXT_FILE}")
        if self.text != START and self.step is None:
            raise ValueError(f"text={self.text} needs step=N: the step whose samples to show")
        if self.by_loss and self.step is None:
            raise ValueError("by_loss=true needs a step: give step=N")
        if self.loss_model is not None and not self.by_loss and self.hindsight is None:
            raise ValueError(
                f"loss_model={self.loss_model} needs by_loss=true or hindsight=FOLDER: add one, or leave loss_model out"
            )
        for key in ("cut_by", "buckets", "table"):
            if getattr(self, key) is not None and self.hindsight is None:
                raise ValueError(f"{key}={getattr(self, key)} needs hindsight=FOLDER: add it, or leave {key} out")
        if self.hindsight is not None and self.step is not None:
            raise ValueError(f"hindsight={self.hindsight} is about the whole order: leave step={self.step} out")
        if self.buckets is not None and self.buckets < 2:
            raise ValueError(f"buckets={self.buckets} must be at least 2")
        if self.prefer is not None and self.table is None:
            raise ValueError(f"prefer={self.prefer} needs table=NAME.csv: add it, or leave prefer out")
        if self.picture is not None and not self.picture.endswith(PICTURES):
            raise ValueError(f"picture={self.picture} must end with {' or '.join(PICTURES)}")
        if self.parent is not None and not self.verify:
            raise ValueError(f"parent={self.parent} needs verify=true: add it, or leave parent out")
        if self.preference_code is not None and not self.verify:
            raise ValueError(
                f"preference_code={self.preference_code} needs verify=true: add it, or leave preference_code out"
            )

    @property
    def of_orders(self) -> dict[str, Any]:
        """Keys that were given and only apply to orders."""
        keys = (
            "step",
            "by_loss",
            "hindsight",
            "tokens",
            "scores",
            "own_scores",
            "parent",
            "preference_code",
            "picture",
        )
        return {key: getattr(self, key) for key in keys if getattr(self, key)}
