"""Export: the newest checkpoint of a run, or an average of its weights, as a Hugging Face folder."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from curriculum.artifact import ArtifactError, open_manifest
from curriculum.tokenizer import TOKENIZER_FILE, tokenizer_fingerprint
from models import huggingface
from models.config import DecoderConfig
from train import checkpoint
from train.averaging import ChosenWeights, check_choice, choose_weights
from train.card import run_card
from train.runfolder import EXPORT, read_run

log = logging.getLogger(__name__)

CARD = "README.md"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class ExportSettings:
    """What `pdpc export` is told."""

    run: str
    """RUN folder."""
    output: str
    """Hugging Face folder to write."""
    dtype: str = "fp32"
    """fp32 or bf16."""
    weights: str = "last"
    """last, or running: the running average that a run with averaging.decay keeps."""
    average: int = 1
    """Take the mean of so many newest checkpoints."""

    def __post_init__(self) -> None:
        check_choice(self.weights, self.average)
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype={self.dtype!r} is unknown: use one of {sorted(DTYPES)}")


def run(settings: ExportSettings) -> None:
    """Write the newest checkpoint of a run as a folder that AutoModelForCausalLM loads without this package."""
    chosen = choose_weights(Path(settings.run), settings.weights, settings.average)
    written = export_checkpoint(Path(settings.run), Path(settings.output), settings.dtype, chosen)
    log.info("exported %s to %s" if written else "%s is at %s already: reused", settings.run, settings.output)


def export_checkpoint(run_folder: Path, output: Path, dtype: str = "fp32", chosen: ChosenWeights | None = None) -> bool:
    """Export weights of a run (its newest checkpoint's) with tokenizer and model card; False: they are there already.

    The card names checkpoint and type of the weights, and an export is there whole or not at all: equal cards will do.
    """
    facts = read_run(run_folder)
    chosen = chosen or choose_weights(run_folder)
    manifest = open_manifest(chosen.sources[0], checkpoint.KIND)
    card = run_card(facts, manifest, DecoderConfig(**manifest.facts["model"]), dtype, chosen.how)
    whole = all((output / name).is_file() for name in (CARD, "config.json", TOKENIZER_FILE))
    if whole and any(output.glob("*.safetensors")) and (output / CARD).read_text("utf-8") == card:
        return False
    config, state = chosen.read()
    huggingface.export(
        output,
        config,
        state,
        dtype=DTYPES[dtype],
        tokenizer_folder=tokenizer_folder(run_folder, facts),
        card=card,
    )
    return True


def newest_checkpoint(run_folder: Path) -> Path:
    """Return the newest whole checkpoint of a run. Raises ArtifactError when there is none."""
    return choose_weights(run_folder).sources[0]


def tokenizer_folder(run_folder: Path, facts: dict[str, Any]) -> Path:
    """Return where the run's own tokenizer lies: in TOKENS, or in the export that the run ended with."""
    for folder in (Path(facts["paths"]["tokens"]) / "tokenizer", run_folder / EXPORT):
        if (folder / TOKENIZER_FILE).is_file() and tokenizer_fingerprint(folder) == facts["fingerprints"]["tokenizer"]:
            return folder
    raise ArtifactError(
        f"the tokenizer of run {run_folder} is not at {facts['paths']['tokens']} any more: put the TOKENS folder back"
    )
