"""One run from its settings to its end: open, resume, train, evaluate at stage ends, export."""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from curriculum.artifact.files import write_text
from curriculum.artifact.manifest import open_manifest
from curriculum.order.consumed import as_hex
from curriculum.scores.baseline import baselines_of
from models.attention import Backend, choose
from models.decoder import build
from models.kernels import check as check_kernels
from train import checkpoint
from train.batches import check_consumed
from train.config.packages import drift
from train.distributed.exit_codes import REFUSED, Refused
from train.distributed.out_of_memory import OutOfMemory, needing
from train.distributed.signals import Left, Signals, heed, posted
from train.distributed.watchdog import Watchdog
from train.distributed.world import World, finish, local_ranks, start
from train.engine import Engine, check_swap, deepspeed_config
from train.evaluation.answers import Evaluated, answers_path, write_answers
from train.evaluation.attempts import Attempts
from train.evaluation.evaluate import FAILED, Questions, evaluate
from train.evaluation.harness.tasks import data_fingerprint
from train.export.export import export_checkpoint
from train.export.weights import ChosenWeights, choose_weights
from train.faults import arm, fault
from train.hooks.choice import hooks_of
from train.inputs import Inputs, check_scores, open_inputs, verify_inputs
from train.loop import Loop
from train.loop_state import Progress
from train.memory.available import room_here
from train.memory.footprint import advice, check_fits
from train.objectives import Objective, objective_of
from train.records.consumed import ConsumedFile, forget_consumed
from train.resume.identity import Change, check_acceptable, identity, is_accepted
from train.resume.lineage import check_resume, conversion, work_split
from train.resume.runfolder import CHECKPOINTS, EXPORT, RunFolder
from train.schedule import wasted_rise
from train.settings import TrainSettings
from train.tracking import MetricsFile, NullTracker, Tracker, check_tracker, start_tracker

log = logging.getLogger(__name__)

WEIGHTS, STATES = "the weights", "weights, gradients and the optimizer's states"
"""What memory is needed for before the first step."""


def train(settings: TrainSettings, signals: Signals | None = None) -> None:
    """Train one arm, or go on with it from its newest checkpoint. Every rank calls this.

    Raises Refused at the door: before a model exists, and but for a RUN folder that another run owns, before the ranks
    have met. Raises Left, after a checkpoint and together with all ranks, when a signal asked the run to leave;
    without `signals`, which are installed already, signals do what they did before.
    """
    signals = signals or Signals(settings.grace_s)
    try:
        check_acceptable(settings.accept_change)
        arm()
        check_kernels(settings.execution.kernels, cuda=torch.cuda.is_available())
        inputs = open_inputs(settings)
        objective = objective_of(settings, inputs.tokens)
        deepspeed_config(settings, inputs.order.batch_size, int(os.environ.get("WORLD_SIZE", "1")))
        check_swap(settings.zero)
        check_tracker(settings.tracker)
        attention = _attention(settings)
        tight = _check_memory(settings, inputs)
    except ValueError as error:
        raise Refused(str(error), getattr(error, "exit_code", REFUSED)) from error
    except FileNotFoundError as error:
        raise Refused(f"{error.filename} went just after it had been found: put it back") from error
    world = start(settings.threads)
    watchdog = Watchdog(Path(settings.output), world, settings.hang_timeout_s, settings.slow_timeout_s)
    claimed, step = _claim_first(Path(settings.output), settings, inputs, world)
    left: Left | None = None
    if world.same(int(claimed is not None and claimed.finished)):
        log.info("run %s is finished: nothing to do", settings.output)
    else:
        log.info("attention: %s (%s, %s)", attention.name, world.device.type, settings.precision)
        if world.first and (reason := wasted_rise(settings.schedule, inputs.order)):
            log.warning("%s", reason)
        if world.first:
            for text in inputs.findings.all:
                log.warning("scores: %s", text)
        if world.first and tight:
            log.warning("memory may not suffice: %s", tight)
        watchdog.start()
        heed()
        signals.at_hang = watchdog.dump
        try:
            with needing("the run"):
                _train(settings, inputs, objective, world, claimed, world.same(step), signals, watchdog)
        except Left as asked:
            left = asked
        except OutOfMemory as error:
            raise _with_advice(error, settings, inputs, world) from error
        finally:
            watchdog.close()
    if claimed is not None:
        claimed.release()
    signals.over = True
    finish(world)
    if left is not None:
        raise left


def _attention(settings: TrainSettings) -> Backend:
    """Return the backend that will train on this machine. Raises ValueError when the one asked for cannot."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    try:
        return choose(settings.model.attention, settings.model.width // settings.model.heads, dtype, device)
    except ValueError as error:
        raise ValueError(f"model.{error}") from error


def _check_memory(settings: TrainSettings, inputs: Inputs) -> str | None:
    """Return a warning when memory may not suffice. Raises ValueError when it surely does not, here or on the GPU."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    room = room_here(cuda_device=int(os.environ.get("LOCAL_RANK", "0")) if torch.cuda.is_available() else None)
    return check_fits(settings, inputs.decoder, inputs.order.batch_size, ranks, local_ranks(ranks), room)


def _with_advice(error: OutOfMemory, settings: TrainSettings, inputs: Inputs, world: World) -> OutOfMemory:
    """Add what a rank needs at least, and the nearest setting that needs less."""
    room = room_here(cuda_device=world.local_rank if world.device.type == "cuda" else None)
    states = error.needed_for in (WEIGHTS, STATES)
    batch_size = inputs.order.batch_size
    said = advice(settings, inputs.decoder, batch_size, world.size, room, states=states)
    return OutOfMemory(error.needed_for, error.said, said)


def _claim_first(folder: Path, settings: TrainSettings, inputs: Inputs, world: World) -> tuple[RunFolder | None, int]:
    """Let rank 0 claim the RUN folder; when it is refused, all ranks leave with the same exit code."""
    claimed: tuple[RunFolder | None, int] = (None, 0)
    refusal: Refused | None = None

    def claim() -> None:
        nonlocal claimed, refusal
        try:
            claimed = _claim(folder, settings, inputs, world)
        except Refused as error:
            refusal = error

    world.first_does(claim)
    code = world.same(refusal.exit_code if refusal else 0)
    if code:
        raise refusal or Refused("rank 0 refused the run; its message says why", code)
    return claimed


def _claim(folder: Path, settings: TrainSettings, inputs: Inputs, world: World) -> tuple[RunFolder, int]:
    """Lock, check and describe the RUN folder, and find the step to go on from: that of the newest whole checkpoint.

    Rank 0 alone does this. Raises Refused, and then nothing has changed: also when the checkpoint has read other
    samples than this order begins with.
    """
    paths = {name: str(Path(path).absolute()) if path else None for name, path in asdict(settings.data).items()}
    made = inputs.order.manifest
    split = work_split(settings, inputs.order.batch_size, world.size)
    extra = {
        "arranged": {"preference": made.config.get("preference"), "inputs": made.inputs},
        "parameters": inputs.decoder.parameter_count(),
        **split,
        "paths": {**paths, "slice": inputs.order.manifest.facts["slice"]},
        **inputs.findings.as_fact(),
    }
    try:
        claimed = RunFolder.claim(folder)
        lives = claimed.facts.get("lives", [])
        found = None if claimed.finished else checkpoint.newest(folder / CHECKPOINTS)
        accepted = claimed.admit(settings, inputs, found)
        if claimed.finished:
            return claimed, 0
        check_scores(settings, inputs)
        verify_inputs(settings)
        manifest = None
        if found is not None:
            manifest = open_manifest(found, checkpoint.KIND)
            order = Change("fingerprints.order", manifest.inputs.get("order"), inputs.order.fingerprint)
            check_resume(found, inputs.order, is_accepted(order, settings.accept_change, lives))
        step = checkpoint.step_of(found) if found else 0
        begun_anew = {name for life in lives if life["step"] == step for name in life.get("set_aside", [])}
        damaged = checkpoint.damaged_records(folder, manifest, begun_anew)
        checkpoint.set_aside(folder, damaged)
        recorded = claimed.facts.get("versions") or (manifest.facts.get("versions", {}) if manifest else {})
        for line in drift(recorded):
            log.warning("%s", line)
        converted = conversion(lives, step, split)
        claimed.describe(settings, inputs, step, accepted, damaged, extra)
    except ValueError as error:
        raise Refused(str(error), getattr(error, "exit_code", REFUSED)) from error
    if converted:
        log.info(converted)
    return claimed, step


def _train(
    settings: TrainSettings,
    inputs: Inputs,
    objective: Objective,
    world: World,
    claimed: RunFolder | None,
    step: int,
    signals: Signals,
    watchdog: Watchdog,
) -> None:
    with needing(WEIGHTS):
        fault("engine.weights")
        decoder = build(inputs.decoder, settings.seed, settings.execution)
    folder = Path(settings.output)
    with ExitStack() as leaving:
        with needing(STATES):
            engine = Engine(decoder, settings, inputs.order.batch_size, world)
            leaving.callback(engine.remove_swap_files)
            progress, states = _resume(folder, engine, inputs, world, step)

        def open_records() -> tuple[MetricsFile, Tracker]:
            assert claimed is not None
            write_text(folder / "ds_config.json", json.dumps(engine.config, indent=1) + "\n")
            forget_consumed(folder, progress.step)
            shown = {**identity(settings), **claimed.facts["fingerprints"]}
            return MetricsFile(folder, progress.step), start_tracker(
                settings.tracker, folder, settings.arm, shown, progress.step
            )

        metrics, tracker = world.first_does(open_records) or (None, NullTracker())
        width = inputs.order.batch_size // world.size
        consumed = ConsumedFile(folder, world.rank, world.size, width, progress.consumed_hash)
        hooks = [*hooks_of(settings), objective]
        loop = Loop(
            *(settings, inputs, engine, world, progress, consumed, metrics, tracker, signals, watchdog),
            *(hooks, objective, _save, _restore, _evaluate),
        )
        try:
            loop.load_state(states)
            _make_up_evaluation(loop)
            loop.run()
        finally:
            for hook in hooks:
                hook.close(loop)
            consumed.close()
            tracker.finish()
            if metrics is not None:
                metrics.close()

        def seal() -> None:
            assert claimed is not None
            export_checkpoint(folder, folder / EXPORT, chosen=_of_the_end(folder, progress.step))
            claimed.finish(loop.cursor, as_hex(progress.consumed_hash))
            log.info("run %s is finished: %s tokens in %s steps", folder, progress.tokens, progress.step)

        with signals.holding(False), watchdog.slow("the export"):
            world.first_does(seal)
        engine.destroy()


def _of_the_end(folder: Path, step: int) -> ChosenWeights:
    """Return the weights of the last step. Raises UnreadableCheckpoint when its checkpoint is no longer whole."""
    chosen = choose_weights(folder)
    if checkpoint.step_of(chosen.sources[0]) != step:
        raise checkpoint.UnreadableCheckpoint(
            f"the checkpoint of the last step, {checkpoint.folder_of(folder / CHECKPOINTS, step)}, is damaged: the run "
            f"is not finished; run the same command again to go on from {chosen.sources[0]}"
        )
    return chosen


def _resume(folder: Path, engine: Engine, inputs: Inputs, world: World, step: int) -> tuple[Progress, dict[str, Any]]:
    """Load the checkpoint of a step, the same on every rank; step 0 has none. Return its progress and hooks' states."""
    world.first_does(lambda: checkpoint.clean(folder / CHECKPOINTS, step))
    if step == 0:
        return Progress(), {}
    facts = checkpoint.load(checkpoint.folder_of(folder / CHECKPOINTS, step), engine).facts
    if world.first:
        log.info("resumed from step %s of %s", step, inputs.order.steps)
    return Progress(step, facts["tokens"], int(facts["consumed_hash"], 16)), facts.get("hooks", {})


def _save(loop: Loop) -> Path:
    """Check what was consumed and write a checkpoint of this moment; remove those that are too many."""
    folder = Path(loop.settings.output)
    loop.consumed.sync()
    if loop.metrics is not None:
        loop.metrics.sync()
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


def _restore(loop: Loop) -> int | None:
    """Take the weights and moments of the newest checkpoint; return its step, None when there is none."""
    found = loop.world.first_does(lambda: checkpoint.newest(Path(loop.settings.output) / CHECKPOINTS))
    step = loop.world.same(checkpoint.step_of(found) if found else 0)
    if step == 0:
        return None
    facts = checkpoint.load(checkpoint.folder_of(Path(loop.settings.output) / CHECKPOINTS, step), loop.engine).facts
    for hook in loop.hooks:
        hook.post_restore(loop, facts.get("hooks", {}).get(hook.name))
    return step


def _make_up_evaluation(loop: Loop) -> None:
    """Evaluate a stage whose checkpoint was written but whose evaluation was cut off."""
    stage = loop.ended_stage()
    missing = loop.metrics is not None and stage is not None and loop.progress.step not in loop.metrics.stages
    if loop.world.same(int(missing)):
        assert stage is not None
        _evaluate(loop, stage)


def _evaluate(loop: Loop, stage: int) -> None:
    """Evaluate a stage: a crash in here costs the evaluation alone, its checkpoint is written."""
    fault("loop.before_evaluation")
    began = time.perf_counter()
    folder, step = Path(loop.settings.output), loop.progress.step
    with (
        loop.signals.holding(False),
        loop.watchdog.slow(f"the evaluation of stage {stage}"),
        loop.engine.whole_weights(),
    ):
        fault("loop.in_evaluation")
        found = _ask(loop, Attempts(folder, step, partial(_other_data, loop)) if loop.world.first else None)
    fault("loop.after_evaluation")
    loop.world.first_does(lambda: write_answers(answers_path(folder, step), found.answers))
    record = {"kind": "stage", "stage": stage, "step": step, "tokens": loop.progress.tokens, **found.values}
    loop.record({**record, "time/evaluation_s": time.perf_counter() - began})
    if loop.metrics is not None:
        loop.metrics.sync()
        if found.failed:
            again = f"pdpc evaluate run={folder} stages=failed"
            log.warning("stage %s: %s failed; once mended, run it again with %s", stage, found.values[FAILED], again)
        if step == loop.inputs.order.steps and (text := _untrained(loop, found.values.get("val/loss"))):
            log.warning("warning: %s", text)


def _untrained(loop: Loop, loss: Any) -> str | None:
    """Return a warning if the run ends no better than a model that has learnt nothing, with its steps and rate."""
    known = isinstance(loss, float)
    shortfall = baselines_of(loop.inputs.validation).shortfall(loss) if known else None
    if shortfall is None:
        return None
    steps, rate = loop.progress.step, loop.settings.optimizer.lr
    return (
        f"after {steps:,} step{'s' * (steps != 1)} at a learning rate of {rate:g} the model is {shortfall} on held-out "
        "text: as a reference model or as an arm it says nothing; take more steps (a smaller batch_size, more text) or "
        "a higher optimizer.lr"
    )


def _other_data(loop: Loop, task: str) -> str | None:
    """Tell whether a task's data files are no longer those that it was asked from: its answers would not compare."""
    if data_fingerprint(task, loop.settings.benchmarks) == loop.inputs.task_data[task]:
        return None
    return "its data files are not those that this life of the run began with: put them back"


def _ask(loop: Loop, attempts: Attempts | None) -> Evaluated:
    """Ask the model; who ends this rank meanwhile, or another one, by a signal is not taken for the task that runs."""
    inputs, settings = loop.inputs, loop.settings
    tokenizer = inputs.validation.tokenizer_folder
    asked = Questions(tokenizer, inputs.validation, inputs.pd, settings.heldout, settings.benchmarks)
    before = loop.signals.at_leave
    if attempts is not None:
        loop.signals.at_leave = attempts.asked_to_leave
    try:
        return evaluate(loop.engine.decoder, asked, loop.world, attempts=attempts, watch=loop.watchdog.slow)
    except Exception:
        if attempts is not None and posted() > 128:
            attempts.asked_to_leave()
        raise
    finally:
        loop.signals.at_leave = before
