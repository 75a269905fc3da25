"""Evaluation: held-out loss and benchmarks of one model, at a stage end or by `pdpc evaluate`."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

import torch

from curriculum.artifact import write_text
from curriculum.scores import Scores
from curriculum.tokens import Tokens
from models.decoder import Decoder
from train import checkpoint
from train.export import newest_checkpoint
from train.harness import BenchmarkSettings, evaluate_benchmarks
from train.heldout import HeldoutSettings, evaluate_heldout
from train.inputs import VALIDATION, Inputs
from train.runfolder import read_run
from train.world import World

log = logging.getLogger(__name__)

Values = dict[str, float | str]


@dataclass(frozen=True)
class EvaluateSettings:
    """What `pdpc evaluate` is told."""

    run: str
    """RUN folder; its newest checkpoint is evaluated."""
    heldout: HeldoutSettings = field(default_factory=HeldoutSettings)
    """Held-out loss."""
    benchmarks: BenchmarkSettings = field(default_factory=BenchmarkSettings)
    """Harness tasks."""


def run(settings: EvaluateSettings) -> Values:
    """Evaluate the newest checkpoint of a run in this process; print and keep the values in `evaluations/`."""
    folder = Path(settings.run)
    paths = read_run(folder)["paths"]
    source = newest_checkpoint(folder)
    decoder = load_decoder(source)
    validation = Tokens.open(paths["tokens"], VALIDATION)
    pd = Scores.open(paths["scores"], VALIDATION).column("pd") if paths["scores"] else None
    alone = World(0, 1, 0, 1, torch.device("cpu"))
    with torch.inference_mode():
        values: Values = {**evaluate_heldout(decoder, validation, pd, settings.heldout, alone)}
        values |= evaluate_benchmarks(decoder, validation.tokenizer_folder, settings.benchmarks, alone)
    target = folder / "evaluations" / f"{source.name}.json"
    target.parent.mkdir(exist_ok=True)
    write_text(target, json.dumps(values, indent=1) + "\n")
    for name, value in values.items():
        log.info("%-40s %s", name, value if isinstance(value, str) else f"{value:.4f}")
    log.info("written to %s", target)
    return values


def load_decoder(source: Path) -> Decoder:
    """Return the float32 decoder of a checkpoint."""
    config, state = checkpoint.read_weights(source)
    with torch.device("meta"):
        decoder = Decoder(config)
    if config.tie_embeddings:
        state["head.weight"] = state["embedding.weight"]
    decoder.load_state_dict(state, assign=True)
    return decoder.eval()


def evaluate(
    decoder: Decoder, inputs: Inputs, heldout: HeldoutSettings, benchmarks: BenchmarkSettings, world: World
) -> Values:
    """Return the stage record's values; every rank calls this and gets the same."""
    decoder.eval()
    values: Values = {**evaluate_heldout(decoder, inputs.validation, inputs.pd, heldout, world)}
    values |= evaluate_benchmarks(decoder, inputs.validation.tokenizer_folder, benchmarks, world)
    decoder.train()
    return values
