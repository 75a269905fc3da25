"""Evaluation: held-out loss and benchmarks of one model, at a stage end or by `pdpc evaluate`."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from curriculum.artifact import ArtifactError, write_text
from curriculum.scores import Scores
from curriculum.tokens import Tokens
from models.config import DecoderConfig
from models.decoder import Decoder
from train import checkpoint
from train.averaging import check_choice, choose_weights
from train.harness import BenchmarkSettings, check_tasks, evaluate_benchmarks
from train.heldout import HeldoutSettings, evaluate_heldout
from train.inputs import VALIDATION
from train.runfolder import read_run
from train.world import World

log = logging.getLogger(__name__)

Values = dict[str, float | str]


@dataclass(frozen=True)
class EvaluateSettings:
    """What `pdpc evaluate` is told."""

    run: str
    """RUN folder; its newest checkpoint is evaluated."""
    weights: str = "last"
    """last, or running: the running average that a run with averaging.decay keeps."""
    average: int = 1
    """Take the mean of so many newest checkpoints."""
    heldout: HeldoutSettings = field(default_factory=HeldoutSettings)
    """Held-out loss."""
    benchmarks: BenchmarkSettings = field(default_factory=BenchmarkSettings)
    """Harness tasks."""

    def __post_init__(self) -> None:
        check_choice(self.weights, self.average)


def run(settings: EvaluateSettings) -> Values:
    """Evaluate the newest checkpoint of a run in this process; print and keep the values in `evaluations/`."""
    check_tasks(settings.benchmarks)
    folder = Path(settings.run)
    validation, pd = _heldout_of(read_run(folder))
    chosen = choose_weights(folder, settings.weights, settings.average)
    alone = World(0, 1, 0, 1, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    decoder = decoder_of(*chosen.read()).to(alone.device)
    values = evaluate(decoder, validation, pd, settings.heldout, settings.benchmarks, alone)
    target = folder / "evaluations" / f"{chosen.name}.json"
    target.parent.mkdir(exist_ok=True)
    write_text(target, json.dumps(values, indent=1) + "\n")
    for name, value in values.items():
        log.info("%-40s %s", name, value if isinstance(value, str) else f"{value:.4f}")
    log.info("written to %s", target)
    return values


def _heldout_of(facts: dict[str, Any]) -> tuple[Tokens, NDArray[np.float32] | None]:
    """Return the validation slice of a run and its PD. Raises ArtifactError when they are not what the run used."""
    paths, prints = facts["paths"], facts["fingerprints"]
    validation = Tokens.open(paths["tokens"], VALIDATION)
    scores = Scores.open(paths["scores"], VALIDATION) if paths["scores"] else None
    for name, found in (("validation", validation), ("scores", scores)):
        if found is not None and found.fingerprint != prints[name]:
            raise ArtifactError(
                f"{found.folder} is not what the run used ({name}: {found.fingerprint} there, {prints[name]} in the "
                "run): put the old folder back"
            )
    return validation, scores.column("pd") if scores else None


def load_decoder(source: Path) -> Decoder:
    """Return the float32 decoder of a checkpoint."""
    return decoder_of(*checkpoint.read_weights(source))


def decoder_of(config: DecoderConfig, state: dict[str, torch.Tensor]) -> Decoder:
    """Return the decoder of these weights."""
    with torch.device("meta"):
        decoder = Decoder(config)
    if config.tie_embeddings:
        state["head.weight"] = state["embedding.weight"]
    decoder.load_state_dict(state, assign=True)
    return decoder.eval()


def evaluate(
    decoder: Decoder,
    validation: Tokens,
    pd: NDArray[np.float32] | None,
    heldout: HeldoutSettings,
    benchmarks: BenchmarkSettings,
    world: World,
) -> Values:
    """Return the stage record's values; every rank calls this and gets the same."""
    with torch.inference_mode():
        values: Values = {**evaluate_heldout(decoder, validation, pd, heldout, world)}
        values |= evaluate_benchmarks(decoder, validation.tokenizer_folder, benchmarks, world)
    return values
