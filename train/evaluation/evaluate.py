"""Evaluation: held-out loss and benchmarks of a model, at a stage end or by `pdpc evaluate`.

A failure never ends a run: failed parts are listed in the record under `stage/failed`, and can be evaluated again.
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

from curriculum.pairs.pairs import Pairs
from curriculum.tokens.samples import Samples
from curriculum.tokens.tokens import Tokens
from models.decoder import Decoder
from models.losses.pair_loss import PairLoss
from train.distributed.collectives import Collectives, RankFailed
from train.distributed.world import World
from train.evaluation.answers import Evaluated
from train.evaluation.attempts import Attempts, attempted
from train.evaluation.harness.benchmarks import evaluate_benchmarks
from train.evaluation.harness.tasks import BenchmarkSettings
from train.evaluation.heldout import HeldoutSettings, evaluate_heldout
from train.evaluation.pairs import evaluate_pairs

log = logging.getLogger(__name__)

FAILED = "stage/failed"
"""Key of a stage record with the comma-separated names of failed parts; absent if nothing failed."""
HELDOUT = "heldout"
"""Name of the held-out loss in `stage/failed`."""
RETRIES = 2
"""How often the held-out loss of a stage is tried again after the process ended in it."""


@dataclass(frozen=True)
class Questions:
    """What a model is evaluated on."""

    tokenizer_folder: Path
    validation: Samples | None
    """Held-out text or pairs; None: no held-out loss."""
    pd: NDArray[np.float32] | None
    """PD of the validation samples."""
    heldout: HeldoutSettings
    benchmarks: BenchmarkSettings
    bos: int | None = None
    """Token that starts every document, and so every prompt; None: none does."""
    pair_loss: PairLoss | None = None
    """Loss of held-out pairs."""
    reference_A: NDArray[np.float32] | None = None
    """log p of every answer of the pairs under the reference of dpo."""


def evaluate(
    decoder: Decoder,
    questions: Questions,
    world: World,
    *,
    attempts: Attempts | None = None,
    watch: Callable[[str], AbstractContextManager[object]] = nullcontext,
) -> Evaluated:
    """Return the values of the stage record and the per-item answers. Collective: all ranks return the same.

    A held-out loss that cannot be computed gives `val/error`, a failed task `bench/<task>/error`, with the error
    message; `stage/failed` lists both. `attempts`, on rank 0, notes the running part; `watch` is entered around every
    task.
    """
    found = Evaluated()
    with torch.inference_mode():
        if questions.validation is not None:
            found.add(_heldout(decoder, questions.validation, questions, world, attempts))
        found.add(
            evaluate_benchmarks(
                decoder,
                questions.tokenizer_folder,
                questions.benchmarks,
                world,
                bos=questions.bos,
                attempts=attempts,
                watch=watch,
            )
        )
    if found.failed:
        found.values[FAILED] = ",".join(found.failed)
    return found


def nothing_evaluated(questions: Questions, reason: str) -> Evaluated:
    """Return the results of an evaluation in which every part failed for the same reason."""
    tasks = list(questions.benchmarks.tasks)
    parts = ([] if questions.validation is None else [HELDOUT]) + tasks
    found = Evaluated({f"bench/{task}/error": reason for task in tasks}, failed=parts)
    if questions.validation is not None:
        found.values["val/error"] = reason
    if parts:
        found.values[FAILED] = ",".join(parts)
    return found


def _heldout(
    decoder: Decoder, validation: Samples, questions: Questions, world: World, attempts: Attempts | None
) -> Evaluated:
    def work() -> Evaluated:
        if isinstance(validation, Pairs):
            loss = questions.pair_loss
            assert loss is not None, "held-out pairs have a loss"
            return evaluate_pairs(decoder, validation, loss, questions.reference_A, questions.heldout, world)
        assert isinstance(validation, Tokens)
        return evaluate_heldout(decoder, validation, questions.pd, questions.heldout, world)

    try:
        return attempted(HELDOUT, work, Collectives(world), attempts, RETRIES)
    except RankFailed as failure:
        log.warning("held-out loss failed: %s", failure)
        return Evaluated({"val/error": str(failure)}, failed=[HELDOUT])
