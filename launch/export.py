"""`pdpc export`: a run's newest checkpoint, or an average of its weights, as a Hugging Face folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from train.export.choice import check_choice
from train.records.layout import EXPORT

log = logging.getLogger(__name__)

DTYPES = ("fp32", "bf16")


@dataclass(frozen=True)
class ExportSettings:
    """Settings of `pdpc export`."""

    run: str
    """RUN folder."""
    output: str | None = None
    """Output folder, in Hugging Face format. null: RUN/export, where a finished run has its last weights in fp32."""
    dtype: str = "fp32"
    """fp32 or bf16."""
    weights: str = "last"
    """last, or running: the running average of a run with averaging.decay."""
    average: int = 1
    """Average the weights of the N newest checkpoints."""

    def __post_init__(self) -> None:
        check_choice(self.weights, self.average)
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype!r} is unknown: use one of {', '.join(DTYPES)}")
        if self.output is None and (self.dtype, self.weights, self.average) != (DTYPES[0], "last", 1):
            raise ValueError("output has no value, and RUN/export holds the last weights in fp32: give output=FOLDER")


def run(settings: ExportSettings) -> None:
    """Write the newest checkpoint of a run as a folder that AutoModelForCausalLM loads without this package."""
    from train.export.export import export_checkpoint
    from train.export.weights import choose_weights

    chosen = choose_weights(Path(settings.run), settings.weights, settings.average)
    output = Path(settings.run) / EXPORT if settings.output is None else Path(settings.output)
    written = export_checkpoint(Path(settings.run), output, settings.dtype, chosen)
    log.info("exported %s to %s" if written else "reused: %s is already exported to %s", settings.run, output)
