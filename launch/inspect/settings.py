"""What `pdpc inspect` can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

RUN = "run.json"
"""What a RUN folder is known by."""
PICTURES = (".svg", ".png")
START, FULL, TEXT_FILE = "start", "full", ".txt"
"""What `text` may be: how each sample's text begins, all of it, or a file to write all of it to."""


@dataclass(frozen=True)
class InspectSettings:
    """What `pdpc inspect` is told."""

    folder: str
    """ORDER, or a RUN and with it its order; of TOKENS, SCORES, a checkpoint or a benchmark the manifest is shown."""
    verify: bool = False
    """Read everything: checksums, and of an order every step and every position."""
    step: int | None = None
    """Show the samples behind this step, counted from 1 as in a run's log."""
    samples: int = 6
    """Samples of the step to show."""
    text: str = START
    """Text of the samples: start (one line each), full (all of it), or NAME.txt to write all of it to that file."""
    by_loss: bool = False
    """Show the samples of the step that cost the most, under the run's last checkpoint before it."""
    loss_model: str | None = None
    """Model that by_loss asks, in the place of the run's own: a RUN, a checkpoint or a Hugging Face folder."""
    tokens: str | None = None
    """TOKENS folder that the order was made of: sources, documents and text. A run knows its own."""
    scores: str | None = None
    """SCORES folder. A run knows its own."""
    own_scores: str | None = None
    """Parquet of your own scores."""
    parent: str | None = None
    """ORDER that a replanned order began as: verify=true then compares what was read and what was left."""
    preference_code: str | None = None
    """Code outside PDPC that an ORDER was arranged by, FILE.py:CLASS or an entry point's name: verify=true then finds
    its buckets again. It runs only when it is named here, and only with the checksum that the ORDER recorded."""
    picture: str | None = None
    """Picture of the plan to write, NAME.svg or NAME.png: shares of buckets, mean score, mix of sources."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples={self.samples} must be at least 1")
        if self.text not in (START, FULL) and not self.text.endswith(TEXT_FILE):
            raise ValueError(f"text={self.text} must be {START}, {FULL} or a file to write, NAME{TEXT_FILE}")
        if self.text != START and self.step is None:
            raise ValueError(f"text={self.text} needs step=N: the step whose samples to show")
        if self.by_loss and self.step is None:
            raise ValueError("by_loss=true needs step=N: the step whose samples to weigh")
        if self.loss_model is not None and not self.by_loss:
            raise ValueError(f"loss_model={self.loss_model} is asked with by_loss=true alone: add it, or leave it out")
        if self.picture is not None and not self.picture.endswith(PICTURES):
            raise ValueError(f"picture={self.picture} must end with {' or '.join(PICTURES)}")
        if self.parent is not None and not self.verify:
            raise ValueError(f"parent={self.parent} is compared with verify=true alone: add it")
        if self.preference_code is not None and not self.verify:
            raise ValueError(f"preference_code={self.preference_code} is used with verify=true only: add it")

    @property
    def of_orders(self) -> dict[str, Any]:
        """Keys with a value that orders alone know."""
        keys = ("step", "by_loss", "tokens", "scores", "own_scores", "parent", "preference_code", "picture")
        return {key: getattr(self, key) for key in keys if getattr(self, key)}
