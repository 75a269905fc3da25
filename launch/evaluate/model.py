"""One rank's part of `pdpc evaluate`: choose weights and questions, evaluate, and store the values."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

import torch

from curriculum.artifact.files import read_text, write_text
from curriculum.artifact.manifest import MANIFEST
from curriculum.artifact.outputs import check_file
from curriculum.tokens.tokens import Tokens
from launch.evaluate.questions import questions_of, show
from launch.evaluate.settings import EvaluateSettings
from launch.evaluate.stages import evaluate_stages
from models import huggingface
from train.checkpoint.decoder import decoder_of, load_decoder
from train.distributed.world import World
from train.evaluation.answers import Evaluated, write_answers
from train.evaluation.evaluate import Questions, evaluate
from train.evaluation.harness.tasks import check_tasks
from train.export.export import document_bos, tokenizer_folder
from train.export.weights import choose_weights
from train.inputs import VALIDATION
from train.records.layout import EVALUATIONS
from train.records.run_json import read_run

log = logging.getLogger(__name__)


def evaluate_asked(settings: EvaluateSettings, overrides: Sequence[str], world: World) -> int:
    """Evaluate the settings' folder, run or stages; called by every rank. Return 1 if any part failed, else 0."""
    if settings.folder is not None:
        found = _evaluate_folder(settings, Path(settings.folder), world)
        return int(bool(found.failed))
    assert settings.run is not None, "settings have a run, a folder or a pack"
    if settings.stages is not None:
        return evaluate_stages(settings, Path(settings.run), overrides, world)
    found = _evaluate_newest(settings, Path(settings.run), world)
    return int(bool(found.failed))


def _evaluate_newest(settings: EvaluateSettings, run: Path, world: World) -> Evaluated:
    """Evaluate the newest checkpoint; write values and answers to `evaluations/`, next to those of the run itself."""
    asked = questions_of(run, read_run(run), settings.heldout, settings.benchmarks)
    chosen = choose_weights(run, settings.weights, settings.average)
    found = evaluate(decoder_of(*chosen.read()).to(world.device), asked, world)
    target = run / EVALUATIONS / f"{chosen.name}.json"

    def keep() -> None:
        write_answers(target.with_name(f"{chosen.name}_asked.parquet"), found.answers)
        write_text(target, json.dumps(found.values, indent=1) + "\n")

    world.first_does(keep)
    show(found, target)
    return found


def _evaluate_folder(settings: EvaluateSettings, folder: Path, world: World) -> Evaluated:
    """Evaluate a Hugging Face folder, or a checkpoint folder of a run."""
    check_tasks(settings.benchmarks)
    target = Path(settings.output) if settings.output is not None else None
    if target is not None:
        check_file("output", target, _holds_values(target))
    validation = None if settings.tokens is None else Tokens.open(settings.tokens, VALIDATION)
    bos: int | None = None
    if (folder / MANIFEST).is_file():
        run = folder.parent.parent
        decoder, tokenizer = load_decoder(folder), tokenizer_folder(run, read_run(run))
        bos = document_bos(tokenizer)
    else:
        end = None if validation is None else validation.end_of_text  # as in training: documents do not see each other
        never = None if validation is None else validation.input_only
        decoder, tokenizer = huggingface.load(folder, torch.float32, end_of_text=end, input_only=never), folder
        if settings.benchmarks.tasks:
            from train.evaluation.harness.model import load_tokenizer, template_start

            bos = template_start(load_tokenizer(folder))
    if validation is not None and not validation.is_encoded_by(tokenizer):
        raise ValueError(
            f"tokens={settings.tokens} were prepared with a different tokenizer than the one in {tokenizer}: give "
            f"TOKENS prepared with tokenizer.name={tokenizer}, or leave tokens out"
        )
    asked = Questions(tokenizer, validation, None, settings.heldout, settings.benchmarks, bos)
    found = evaluate(decoder.eval().to(world.device), asked, world)
    if target is not None:
        text = json.dumps(found.values, indent=1) + "\n"
        world.first_does(lambda: write_text(target, text))
    show(found, target)
    return found


def _holds_values(path: Path) -> bool:
    """Return whether a file holds the values of an earlier evaluation: one JSON object of measures."""
    try:
        values = json.loads(read_text(path))
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and all(name.startswith(("val/", "bench/", "time/", "stage/")) for name in values)
