"""Checkpoints and stage ends of a training loop: save, restore, evaluate."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from curriculum.order.consumed import as_hex
from curriculum.scores.baseline import baselines_of
from curriculum.tokens.tokens import Tokens
from train import checkpoint
from train.batches import check_consumed
from train.distributed.signals import posted
from train.engine import WeightsDoNotFit
from train.evaluation.answers import Evaluated, answers_path, write_answers
from train.evaluation.attempts import Attempts
from train.evaluation.evaluate import FAILED, Questions, evaluate, nothing_evaluated
from train.evaluation.harness.tasks import data_fingerprint
from train.faults import fault
from train.loop import Loop
from train.memory.footprint import heldout_batch
from train.objectives.heldout import pair_questions
from train.records.layout import CHECKPOINTS
from train.resume.identity import identity

log = logging.getLogger(__name__)

GATHER = "gathered weights"
"""Name of gathering all weights at ZeRO 3 in attempts.json; no task has a space in its name."""
SPARE = 2
"""Factor by which a held-out batch may exceed its least memory, for temporary tensors."""


def save_checkpoint(loop: Loop) -> Path:
    """Check the consumed samples and their files, write a checkpoint and prune old ones; return its folder."""
    folder = Path(loop.settings.output)
    loop.consumed.sync()
    if loop.metrics is not None:
        loop.metrics.sync()
    loop.inputs.recheck()
    check_consumed(loop.world, loop.consumed.hash, loop.progress.consumed_hash, loop.inputs.order)
    fingerprints = {name: value for name, value in loop.inputs.fingerprints.items() if value is not None}
    saved = checkpoint.save(
        folder / CHECKPOINTS,
        loop.engine,
        loop.world,
        step=loop.progress.step,
        cursor=loop.cursor,
        consumed_hash=as_hex(loop.progress.consumed_hash),
        tokens=loop.progress.tokens,
        config=identity(loop.settings),
        inputs=fingerprints,
        hooks=loop.state(),
    )
    kept = loop.settings.checkpoints
    loop.world.first_does(lambda: checkpoint.prune(folder / CHECKPOINTS, kept, loop.inputs.order.stage_ends))
    return saved


def load_newest(loop: Loop) -> int | None:
    """Load weights and optimizer moments from the newest checkpoint; return its step, or None if there is none."""
    found = loop.world.first_does(lambda: checkpoint.newest(Path(loop.settings.output) / CHECKPOINTS))
    step = loop.world.same(checkpoint.step_of(found) if found else 0)
    if step == 0:
        return None
    facts = checkpoint.load(checkpoint.folder_of(Path(loop.settings.output) / CHECKPOINTS, step), loop.engine).facts
    for hook in loop.hooks:
        hook.post_restore(loop, facts.get("hooks", {}).get(hook.name))
    return step


def make_up_evaluation(loop: Loop) -> None:
    """Evaluate the stage just reached if its checkpoint was written but its evaluation was interrupted."""
    stage = loop.ended_stage()
    missing = loop.metrics is not None and stage is not None and loop.progress.step not in loop.metrics.stages
    if loop.world.same(int(missing)):
        assert stage is not None
        evaluate_stage(loop, stage)


def evaluate_stage(loop: Loop, stage: int) -> None:
    """Evaluate a stage. A crash here costs only the evaluation: the checkpoint is already written."""
    fault("loop.before_evaluation")
    began = time.perf_counter()
    folder, step = Path(loop.settings.output), loop.progress.step
    with loop.signals.holding(False), loop.watchdog.slow(f"the evaluation of stage {stage}"):
        found = _evaluate(loop, Attempts(folder, step, partial(_changed_data, loop)) if loop.world.first else None)
    fault("loop.after_evaluation")
    loop.world.first_does(lambda: write_answers(answers_path(folder, step), found.answers))
    record = {"kind": "stage", "stage": stage, "step": step, "tokens": loop.progress.tokens, **found.values}
    loop.record({**record, "time/evaluation_s": time.perf_counter() - began})
    if loop.metrics is not None:
        loop.metrics.sync()
        if found.failed:
            again = f"pdpc evaluate run={folder} stages=failed"
            log.warning("stage %s: %s failed; fix the cause and rerun with: %s", stage, found.values[FAILED], again)
        if step == loop.inputs.order.steps and (warning := _untrained(loop, found.values.get("val/loss"))):
            log.warning("%s", warning)


def _untrained(loop: Loop, loss: Any) -> str | None:
    """Return a warning if the run ends no better than a model that has learned nothing."""
    text = loop.inputs.validation
    shortfall = baselines_of(text).shortfall(loss) if isinstance(loss, float) and isinstance(text, Tokens) else None
    if shortfall is None:
        return None
    steps, rate = loop.progress.step, loop.settings.optimizer.lr
    return (
        f"after {steps:,} step{'s' * (steps != 1)} at a learning rate of {rate:g} the model is {shortfall} on held-out "
        "text, so it is of no use as a reference model or as an arm: train for more steps (a smaller batch_size, more "
        "text) or at a higher optimizer.lr"
    )


def _changed_data(loop: Loop, part: str) -> str | None:
    """Return the error if a task's data files changed since this attempt began (not comparable), else None."""
    before = loop.inputs.task_data.get(part)
    if before is None or data_fingerprint(part, loop.settings.benchmarks) == before:
        return None
    return "its data files changed since this attempt of the run began: restore them"


def _evaluate(loop: Loop, attempts: Attempts | None) -> Evaluated:
    """Evaluate the model. A signal that ends this or another rank meanwhile is not blamed on the running part."""
    inputs, settings = loop.inputs, loop.settings
    tokenizer = inputs.validation.tokenizer_folder
    questions = Questions(
        *(tokenizer, inputs.validation, inputs.pd, settings.heldout, settings.benchmarks, inputs.validation.bos),
        *pair_questions(asdict(settings), Path(settings.output), inputs.validation),
    )
    before = loop.signals.at_leave
    if attempts is not None:

        def leave() -> None:
            attempts.asked_to_leave()
            before()

        loop.signals.at_leave = leave
    try:
        with _weights(loop, attempts):
            fault("loop.in_evaluation")
            return evaluate(loop.engine.decoder, questions, loop.world, attempts=attempts, watch=loop.watchdog.slow)
    except WeightsDoNotFit as error:
        if attempts is not None:
            attempts.end()
            log.warning("no evaluation: %s", error)
        return nothing_evaluated(questions, str(error))
    except Exception:
        if attempts is not None and posted() > 128:
            attempts.asked_to_leave()
        raise
    finally:
        loop.signals.at_leave = before


@contextmanager
def _weights(loop: Loop, attempts: Attempts | None) -> Iterator[None]:
    """Gather weights that are partitioned; where gathering all at once has ended an earlier attempt, block by block."""
    if loop.settings.zero.stage < 3:
        yield
        return
    refusal = loop.world.first_does(lambda: attempts.begin(GATHER) if attempts else None)
    if refusal is not None:
        log.warning("gathering all weights %s: the evaluation gathers the weights of one block at a time", refusal)
    spare_bytes = SPARE * heldout_batch(loop.settings, loop.inputs.decoder)
    with loop.engine.whole_weights(spare_bytes, at_once=not loop.world.same(int(refusal is not None))):
        loop.world.first_does(lambda: attempts.end() if attempts else None)
        yield
