"""Evaluation: held-out loss and benchmarks of one model, at a stage end or by `pdpc evaluate`.

It never ends a run: what fails is told in the record, by name under `stage/failed`, and can be evaluated again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from curriculum.tokens.tokens import Tokens
from models.config import DecoderConfig
from models.decoder import Decoder
from train import checkpoint
from train.distributed.collectives import Collectives, RankFailed
from train.distributed.world import World
from train.evaluation.answers import Evaluated
from train.evaluation.attempts import Attempts
from train.evaluation.harness.benchmarks import evaluate_benchmarks
from train.evaluation.harness.tasks import BenchmarkSettings
from train.evaluation.heldout import HeldoutSettings, evaluate_heldout

log = logging.getLogger(__name__)

FAILED = "stage/failed"
"""Key of a stage record with the names of the parts that failed, joined by commas; absent when none did."""
HELDOUT = "heldout"
"""Name of the held-out loss among them."""


@dataclass(frozen=True)
class Questions:
    """What a model is asked."""

    tokenizer_folder: Path
    validation: Tokens | None
    """Held-out text; None: it is not asked for a loss."""
    pd: NDArray[np.float32] | None
    """PD of the validation samples."""
    heldout: HeldoutSettings
    benchmarks: BenchmarkSettings


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
    asked: Questions,
    world: World,
    *,
    attempts: Attempts | None = None,
    watch: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> Evaluated:
    """Return the stage record's values, and the answers item by item; every rank calls this and gets the same.

    A held-out loss that cannot be computed is `val/error`, a task that fails `bench/<task>/error`; both are messages,
    and `stage/failed` names them. `attempts` and `watch` as in `evaluate_benchmarks`.
    """
    found = Evaluated()
    with torch.inference_mode():
        if asked.validation is not None:
            found.add(_heldout(decoder, asked.validation, asked, world))
        found.add(
            evaluate_benchmarks(
                decoder, asked.tokenizer_folder, asked.benchmarks, world, attempts=attempts, watch=watch
            )
        )
    if found.failed:
        found.values[FAILED] = ",".join(found.failed)
    return found


def _heldout(decoder: Decoder, validation: Tokens, asked: Questions, world: World) -> Evaluated:
    def work() -> Evaluated:
        return evaluate_heldout(decoder, validation, asked.pd, asked.heldout, world)

    try:
        return Collectives(world).run("held-out loss", work)
    except RankFailed as failure:
        log.warning("held-out loss failed: %s", failure)
        return Evaluated({"val/error": str(failure)}, failed=[HELDOUT])
