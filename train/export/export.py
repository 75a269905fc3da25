"""Export: the newest checkpoint of a run, or an average of its weights, as a Hugging Face model folder."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from curriculum.artifact.drafts import draft_of, remove_abandoned
from curriculum.artifact.files import ArtifactError, sync
from curriculum.artifact.manifest import MANIFEST, kind_of, open_manifest, read_manifest
from curriculum.artifact.outputs import check_place, named, others
from curriculum.tokens.tokenizer import TOKENIZER_FILE, TextTokenizer, tokenizer_fingerprint
from models import huggingface
from models.config import DecoderConfig
from models.huggingface.card import TAG
from models.huggingface.names import INDEX, WEIGHTS
from models.huggingface.tokenizer import TOKENIZER_FILES
from models.huggingface.write import config_text
from train import checkpoint
from train.export.card import run_card
from train.export.weights import ChosenWeights, choose_weights
from train.records.layout import EXPORT
from train.records.run_json import read_run

CARD = "README.md"
OWN = (CARD, "config.json", "generation_config.json", "model*.safetensors", INDEX, *TOKENIZER_FILES)
"""Patterns of the files of an export."""
REPLACED = ".old"
"""Ends the name of an earlier export while it is being replaced."""
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def export_checkpoint(run_folder: Path, output: Path, dtype: str = "fp32", chosen: ChosenWeights | None = None) -> bool:
    """Export a run's weights (by default its newest checkpoint's), tokenizer and model card; False: already exported.

    The card names checkpoint and dtype of the weights, and an export is complete or absent, so comparing cards and
    config.json is enough. An export by an earlier version, whose config.json lacks fields, is replaced.
    """
    facts = read_run(run_folder)
    chosen = chosen or choose_weights(run_folder)
    manifest = open_manifest(chosen.sources[0], checkpoint.KIND)
    tokenizer = tokenizer_folder(run_folder, facts)
    bos = document_bos(tokenizer)
    following = TextTokenizer.open(tokenizer).following(bos is not None)
    shape = DecoderConfig(**manifest.facts["model"])
    texts = {
        CARD: run_card(facts, manifest, shape, dtype, chosen.how, following),
        "config.json": config_text(shape, DTYPES[dtype], bos),
    }
    if (
        all((output / name).is_file() for name in (*texts, TOKENIZER_FILE))
        and any(output.glob("*.safetensors"))
        and all((output / name).read_text("utf-8", "replace") == text for name, text in texts.items())
    ):
        return False
    check_place("output", output)
    config, state = chosen.read()
    with replaced(output) as draft:
        huggingface.export(
            draft,
            config,
            state,
            dtype=DTYPES[dtype],
            tokenizer_folder=tokenizer,
            card=texts[CARD],
            bos=bos,
        )
        if following.template != TextTokenizer.open(draft).template:  # of TOKENS that kept the tokenizer's own
            following.save(draft)
    return True


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Yield an empty folder next to `folder` that replaces it when the block succeeds: complete or not at all.

    An earlier export in `folder` is replaced; ValueError if it holds something else, or another export to it ends
    first. Leftovers of killed exports to `folder` are removed.
    """
    folder = folder.absolute()
    _refuse_foreign(folder)
    draft = draft_of(folder)
    draft.mkdir(parents=True)
    try:
        remove_abandoned(folder.parent, folder.name, now=draft.stat().st_mtime)
        yield draft
        for path in (*draft.iterdir(), draft):
            sync(path)
        _replace(draft, folder)
        _remove_replaced(folder)  # not before: it may be the only complete export
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _refuse_foreign(folder: Path) -> None:
    """Raise ValueError unless `folder` is absent, empty or an earlier export without other files: it is replaced."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    weights = (folder / WEIGHTS).is_file() or (folder / INDEX).is_file()
    card = (folder / CARD).read_text("utf-8", "replace") if (folder / CARD).is_file() else ""
    if not ((folder / "config.json").is_file() and weights and TAG in card.splitlines()):
        raise ValueError(f"{folder} exists and is not an exported model: choose a new folder or remove it")
    if found := others(folder, OWN):
        raise ValueError(
            f"{folder} contains other files ({named(found)}), which an export would remove: move them, or "
            "choose a new folder"
        )


def _replace(draft: Path, folder: Path) -> None:
    """Move `draft` to `folder`; an older folder is moved aside first and removed last.

    Raises ValueError if somebody has put other files into it since the export began.
    """
    aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}{REPLACED}")
    if folder.exists():
        os.replace(folder, aside)
        try:
            _refuse_foreign(aside)
        except ValueError:
            os.replace(aside, folder)
            _refuse_foreign(folder)
            raise
    try:
        os.replace(draft, folder)
    except OSError as error:
        if folder.exists():
            raise ValueError(f"{folder} was written by another export at the same time: run again") from error
        if aside.exists():
            os.replace(aside, folder)
        raise
    sync(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _remove_replaced(folder: Path) -> None:
    """Remove the siblings `.<name>.<8 hex digits>.old` that a killed export to `folder` left."""
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{8}}{re.escape(REPLACED)}")
    for path in folder.parent.iterdir():
        if pattern.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def newest_checkpoint(run_folder: Path) -> Path:
    """Return the newest complete checkpoint of a run. Raises ArtifactError when there is none."""
    return choose_weights(run_folder).sources[0]


def tokenizer_folder(run_folder: Path, facts: dict[str, Any]) -> Path:
    """Return the folder of the run's tokenizer: in TOKENS, or in the export written at the end of the run."""
    for folder in (Path(facts["paths"]["tokens"]) / "tokenizer", run_folder / EXPORT):
        if (folder / TOKENIZER_FILE).is_file() and tokenizer_fingerprint(folder) == facts["fingerprints"]["tokenizer"]:
            return folder
    raise ArtifactError(
        f"the tokenizer of run {run_folder} is no longer at {facts['paths']['tokens']}: restore the TOKENS folder"
    )


def document_bos(tokenizer: Path) -> int | None:
    """Return the token that documents and prompts start with, given a run's `tokenizer_folder`; None if none does.

    TOKENS and PAIRS name it; an export has it in the template of its tokenizer.
    """
    if (tokenizer.parent / MANIFEST).is_file():
        bos: int | None = read_manifest(tokenizer.parent, kind_of(tokenizer.parent)).facts.get("bos")
        return bos
    return TextTokenizer.open(tokenizer).bos
