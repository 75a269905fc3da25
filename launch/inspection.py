"""`pdpc inspect`: what an artifact is, what made it, is it whole; of an order, its plan and its steps too."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum.artifact import kind_of, open_manifest, verify

RUN = "run.json"
"""What a RUN folder is known by."""
PIPE_WIDTH = 160
"""Letters a line where there is no terminal to ask."""
PICTURES = (".svg", ".png")


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
    picture: str | None = None
    """Picture of the plan to write, NAME.svg or NAME.png: shares of buckets, mean score, mix of sources."""

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise ValueError(f"samples={self.samples} must be at least 1")
        if self.by_loss and self.step is None:
            raise ValueError("by_loss=true needs step=N: the step whose samples to weigh")
        if self.loss_model is not None and not self.by_loss:
            raise ValueError(f"loss_model={self.loss_model} is asked with by_loss=true alone: add it, or leave it out")
        if self.picture is not None and not self.picture.endswith(PICTURES):
            raise ValueError(f"picture={self.picture} must end with {' or '.join(PICTURES)}")
        if self.parent is not None and not self.verify:
            raise ValueError(f"parent={self.parent} is compared with verify=true alone: add it")

    @property
    def of_orders(self) -> dict[str, Any]:
        """Keys with a value that orders alone know."""
        keys = ("step", "by_loss", "tokens", "scores", "own_scores", "parent", "picture")
        return {key: getattr(self, key) for key in keys if getattr(self, key)}


def run(settings: InspectSettings) -> int:
    """Show what there is; return 1 when a check of an order fails. Raises ArtifactError for a torn artifact."""
    from rich.console import Console

    folder = Path(settings.folder)
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    if (folder / RUN).is_file() or kind_of(folder) == "order":
        from launch.order_inspection import inspect_order

        return inspect_order(settings, console)
    if settings.of_orders:
        key, value = next(iter(settings.of_orders.items()))
        raise ValueError(f"{key}={value} is for an ORDER or a RUN, {folder} is a {kind_of(folder)}: leave it out")
    _show_manifest(folder, settings.verify, console)
    return 0


def _show_manifest(folder: Path, whole: bool, console: Any) -> None:
    """Print an artifact's manifest."""
    from rich.table import Table

    kind = kind_of(folder)
    manifest = open_manifest(folder, kind)
    if whole:
        verify(folder)
    table = Table(title=f"{kind} {folder}", show_header=False, title_justify="left")
    table.add_row("fingerprint", manifest.fingerprint)
    table.add_row("made", f"{manifest.created_at} by PDPC {manifest.code_version}")
    for title, values in (("input", manifest.inputs), ("config", manifest.config), ("fact", manifest.facts)):
        for key, value in values.items():
            table.add_row(f"{title} {key}", json.dumps(value) if not isinstance(value, str) else value)
    for name, entry in manifest.files.items():
        table.add_row(f"file {name}", f"{entry.bytes:,} bytes, xxh3 {entry.xxh3_128}")
    console.print(table)
    console.print("every file matches its checksum" if whole else "sizes match; verify=true reads every byte")
