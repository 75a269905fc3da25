"""Export: the newest checkpoint of a run, or an average of its weights, as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from curriculum.artifact.manifest import ArtifactError, open_manifest
from curriculum.tokens.tokenizer import TOKENIZER_FILE, tokenizer_fingerprint
from models import huggingface
from models.config import DecoderConfig
from train import checkpoint
from train.export.card import run_card
from train.export.weights import ChosenWeights, choose_weights
from train.resume.runfolder import EXPORT, read_run

CARD = "README.md"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


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
