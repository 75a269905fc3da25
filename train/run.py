"""One run, start to finish: open inputs, resume, train, evaluate at stage ends, export."""

from __future__ import annotations

import json
import logging
import os
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from curriculum.artifact.files import write_text
from curriculum.order.consumed import as_hex
from curriculum.pairs.pairs import Pairs
from models.config import DecoderConfig
from models.decoder import build
from models.kernels import check as check_kernels
from train import checkpoint
from train.adapters import adapt, check_adapter, export_adapter
from train.backends import chosen_backends
from train.distributed.exit_codes import REFUSED, Refused
from train.distributed.out_of_memory import OutOfMemory, needing
from train.distributed.shared_folder import check_shared
from train.distributed.signals import Left, Signals, heed
from train.distributed.watchdog import Watchdog
from train.distributed.world import World, finish, local_ranks
from train.engine import Engine, check_swap, deepspeed_config
from train.engine.communication import start
from train.export.export import export_checkpoint
from train.export.weights import ChosenWeights, choose_weights
from train.faults import arm, fault
from train.hooks.choice import hooks_of
from train.initial import Initial
from train.inputs import Inputs, open_inputs
from train.loop import Loop
from train.loop_state import Progress
from train.memory.available import available_memory
from train.memory.footprint import advice, check_fits
from train.objectives import Objective, objective_of
from train.records.consumed import ConsumedFile, forget_consumed
from train.records.layout import CHECKPOINTS, EXPORT
from train.resume.claim import claim_run
from train.resume.identity import check_acceptable, identity
from train.resume.runfolder import RunFolder
from train.schedule import wasted_rise
from train.settings import TrainSettings
from train.stages import evaluate_stage, load_newest, make_up_evaluation, save_checkpoint
from train.tracking import MetricsFile, NullTracker, Tracker, check_tracker, start_tracker

log = logging.getLogger(__name__)

WEIGHTS, STATES = "the weights", "weights, gradients and optimizer states"
"""What memory is allocated for before the first step."""


def train(settings: TrainSettings, signals: Signals | None = None) -> None:
    """Train a run, resuming from its newest checkpoint if there is one. Call it on every rank.

    Raises Refused before a model is built and, unless the RUN folder is what refuses the run, before the process group
    starts. Raises Left on all ranks together, after a checkpoint, when a signal asked the run to stop. The caller has
    installed `signals`; without them, signals keep their previous handlers.
    """
    signals = signals or Signals(settings.grace_s)
    try:
        check_acceptable(settings.accept_change)
        arm()
        check_kernels(settings.execution.kernels, cuda=torch.cuda.is_available())
        inputs = open_inputs(settings)
        objective = objective_of(settings, inputs.tokens)
        check_adapter(settings, inputs.decoder)
        deepspeed_config(settings, inputs.order.batch_size, int(os.environ.get("WORLD_SIZE", "1")))
        check_swap(settings.zero)
        check_tracker(settings.tracker)
        chosen = chosen_backends(settings)
        memory_warning = _check_memory(settings, inputs)
    except ValueError as error:
        raise Refused(str(error), getattr(error, "exit_code", REFUSED)) from error
    except FileNotFoundError as error:
        raise Refused(f"{error.filename} disappeared while the run was starting: restore it") from error
    world = start(settings.threads)
    watchdog = Watchdog(Path(settings.output), world, settings.hang_timeout_s, settings.slow_timeout_s)
    claimed, step = claim_run(Path(settings.output), settings, inputs, world)
    check_shared("output", Path(settings.output), world)
    left: Left | None = None
    if world.same(int(claimed is not None and claimed.finished)):
        log.info("run %s is finished: nothing to do", settings.output)
    else:
        for line in chosen:
            log.info("%s", line)
        if world.first and (reason := wasted_rise(settings.schedule, inputs.order)):
            log.warning("%s", reason)
        if world.first:
            for text in inputs.findings.all:
                log.warning("scores: %s", text)
        if world.first and memory_warning:
            log.warning("memory may be insufficient: %s", memory_warning)
        watchdog.start()
        heed()
        signals.at_hang = watchdog.dump
        if claimed is not None:
            signals.at_leave = partial(_stopped, claimed, signals)
        try:
            with needing("the run"):
                _train(settings, inputs, objective, world, claimed, world.same(step), signals, watchdog)
        except Left as error:
            left = error
            if claimed is not None:
                claimed.stop(error.exit_code - 128)
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


def _stopped(claimed: RunFolder, signals: Signals) -> None:
    """Record that the signal which ends this process stopped the attempt."""
    claimed.stop(signals.number)


def _check_memory(settings: TrainSettings, inputs: Inputs) -> str | None:
    """Return a warning if memory may be insufficient. Raises ValueError if host or GPU memory certainly is."""
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    room = available_memory(cuda_device=int(os.environ.get("LOCAL_RANK", "0")) if torch.cuda.is_available() else None)
    return check_fits(settings, _shortest(inputs), inputs.order.batch_size, ranks, local_ranks(ranks), room)


def _shortest(inputs: Inputs) -> DecoderConfig:
    """Return the decoder with the tokens of an average sample: pairs are computed without padding."""
    tokens = inputs.tokens
    if not isinstance(tokens, Pairs) or not len(tokens):
        return inputs.decoder
    return replace(inputs.decoder, max_seq_len=max(1, min(tokens.seq_len, tokens.tokens // len(tokens))))


def _with_advice(error: OutOfMemory, settings: TrainSettings, inputs: Inputs, world: World) -> OutOfMemory:
    """Return the error with the minimum memory per rank and the smallest change of settings that needs less."""
    room = available_memory(cuda_device=world.local_rank if world.device.type == "cuda" else None)
    states = error.needed_for in (WEIGHTS, STATES)
    batch_size = inputs.order.batch_size
    remedy = advice(settings, inputs.decoder, batch_size, world.size, room, states=states)
    return OutOfMemory(error.needed_for, error.said, remedy)


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
    """Build the model, resume from `step`, train to the end and export. `claimed` is None except on rank 0."""
    with needing(WEIGHTS):
        fault("engine.weights")
        decoder = build(inputs.decoder, settings.seed, settings.execution)
        if (lora := settings.lora.adapters()) is not None:
            adapt(decoder, lora, settings, inputs.initial, world, step)
    folder = Path(settings.output)
    with ExitStack() as leaving:
        with needing(STATES):
            engine = Engine(decoder, settings, inputs.order.batch_size, world)
            leaving.callback(engine.remove_swap_files)
            progress, states = _resume(folder, engine, inputs, world, step)
        records = world.first_does(lambda: _open_records(settings, engine, claimed, progress.step))
        metrics, tracker = records or (None, NullTracker())
        width = inputs.order.batch_size // world.size
        consumed = ConsumedFile(folder, world.rank, world.size, width, progress.consumed_hash)
        hooks = [*hooks_of(settings), objective]
        loop = Loop(
            *(settings, inputs, engine, world, progress, consumed, metrics, tracker, signals, watchdog),
            *(hooks, objective, save_checkpoint, load_newest, evaluate_stage),
        )
        try:
            loop.load_state(states)
            make_up_evaluation(loop)
            loop.run()
        finally:
            for hook in hooks:
                hook.close(loop)
            consumed.close()
            tracker.finish()
            if metrics is not None:
                metrics.close()
        with signals.holding(False), watchdog.slow("the export"):
            world.first_does(lambda: _export(loop, claimed))
        engine.destroy()


def _open_records(
    settings: TrainSettings, engine: Engine, claimed: RunFolder | None, step: int
) -> tuple[MetricsFile, Tracker]:
    """Open the metrics file and the tracker to continue after `step`, and drop later consumed records. Rank 0 only."""
    assert claimed is not None
    folder = Path(settings.output)
    write_text(folder / "ds_config.json", json.dumps(engine.config, indent=1) + "\n")
    forget_consumed(folder, step)
    shown = {**identity(settings), **claimed.facts["fingerprints"]}
    return MetricsFile(folder, step), start_tracker(settings.tracker, folder, settings.arm, shown, step)


def _export(loop: Loop, claimed: RunFolder | None) -> None:
    """Export the final weights and mark the run as finished. Rank 0 only."""
    assert claimed is not None
    folder, progress = Path(loop.settings.output), loop.progress
    chosen = _final_weights(folder, progress.step)
    export_checkpoint(folder, folder / EXPORT, chosen=chosen)
    export_adapter(folder, chosen.sources[0])
    claimed.finish(loop.cursor, as_hex(progress.consumed_hash))
    log.info("run %s is finished: %s tokens in %s steps", folder, f"{progress.tokens:,}", f"{progress.step:,}")


def _final_weights(folder: Path, step: int) -> ChosenWeights:
    """Return the weights of the last step. Raises UnreadableCheckpoint if its checkpoint is damaged."""
    chosen = choose_weights(folder)
    if checkpoint.step_of(chosen.sources[0]) != step:
        raise checkpoint.UnreadableCheckpoint(
            f"the checkpoint of the last step, {checkpoint.folder_of(folder / CHECKPOINTS, step)}, is damaged, so the "
            f"run is not finished: run the same command again to resume from {chosen.sources[0]}"
        )
    return chosen


def _resume(folder: Path, engine: Engine, inputs: Inputs, world: World, step: int) -> tuple[Progress, dict[str, Any]]:
    """Load the checkpoint of `step`, equal on every rank, or at step 0 the initial weights that the settings name.

    Return its progress and hook states.
    """
    world.first_does(lambda: checkpoint.clean(folder / CHECKPOINTS, step))
    if step == 0:
        if inputs.initial is not None and engine.decoder.lora is None:
            _fill(engine, inputs.initial, world)
        return Progress(), {}
    facts = checkpoint.load(checkpoint.folder_of(folder / CHECKPOINTS, step), engine).facts
    if world.first:
        log.info("resumed from step %s of %s", step, inputs.order.steps)
    return Progress(step, facts["tokens"], int(facts["consumed_hash"], 16)), facts.get("hooks", {})


def _fill(engine: Engine, initial: Initial, world: World) -> None:
    """Give the engine its initial weights."""
    checkpoint.fill(engine, initial.read)
    if not world.first:
        return
    log.info("weights of %s (%s; fingerprint %s)", initial.choice.folder, initial.how, initial.fingerprint)
    seq_len = engine.decoder.config.max_seq_len
    if initial.seq_len is not None and initial.seq_len < seq_len:
        log.warning("the weights were trained for %s tokens, and samples have %s", initial.seq_len, seq_len)
