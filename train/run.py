"""One run from its settings to its end: open, resume, train, evaluate at stage ends, export."""

from __future__ import annotations

import json
import logging
import os
import time
from dataclasses import asdict
from pathlib import Path

import torch

from curriculum.artifact import write_text
from models.decoder import build
from train import checkpoint
from train.batches import ConsumedFile, forget_consumed
from train.engine import Engine
from train.evaluation import evaluate
from train.export import export_checkpoint
from train.inputs import Inputs, open_inputs
from train.loop import Loop, Progress
from train.runfolder import CHECKPOINTS, EXPORT, RunFolder
from train.settings import TrainSettings, identity
from train.tracking import MetricsFile, NullTracker, Tracker, start_tracker
from train.world import World, finish, start

log = logging.getLogger(__name__)


def train(settings: TrainSettings) -> None:
    """Train one arm, or go on with it from its newest checkpoint. Every rank calls this.

    Raises ValueError or ArtifactError at the door, before a process group or a model exists.
    """
    inputs = open_inputs(settings)
    world = start(settings.threads)
    folder = Path(settings.output)
    claimed = _claim(folder, settings, inputs, world)
    if world.same(int(claimed is not None and claimed.finished)):
        log.info("run %s is finished: nothing to do", folder)
    else:
        _train(settings, inputs, world, claimed)
    world.barrier()
    if claimed is not None:
        claimed.release()
    finish(world)


def _claim(folder: Path, settings: TrainSettings, inputs: Inputs, world: World) -> RunFolder | None:
    """Lock and describe the RUN folder on rank 0; a refusal there is an error on every rank."""
    claimed, problem = None, None
    if world.first:
        try:
            claimed = RunFolder.claim(folder)
            was_finished = claimed.finished
            claimed.describe(
                settings,
                inputs.fingerprints,
                {
                    "parameters": inputs.decoder.parameter_count(),
                    "world_size": world.size,
                    "paths": {**asdict(settings.data), "slice": inputs.order.manifest.facts["slice"]},
                },
            )
            if was_finished:
                claimed.finish()
        except ValueError as error:
            problem = error
    if not world.agree(problem is None):
        raise problem or ValueError(f"run {folder} was refused on rank 0")
    return claimed


def _train(settings: TrainSettings, inputs: Inputs, world: World, claimed: RunFolder | None) -> None:
    folder = Path(settings.output)
    engine = Engine(build(inputs.decoder, settings.seed), settings, inputs.order.batch_size, world)
    progress = _resume(folder, engine, inputs, world)
    metrics: MetricsFile | None = None
    tracker: Tracker = NullTracker()
    if claimed is not None:
        write_text(folder / "ds_config.json", json.dumps(engine.config, indent=1) + "\n")
        forget_consumed(folder, progress.step)
        metrics = MetricsFile(folder, progress.step)
        tracker = start_tracker(
            settings.tracker, folder, settings.arm, {**identity(settings), **claimed.facts["fingerprints"]}
        )
    world.barrier()
    loop = Loop(
        settings,
        inputs,
        engine,
        world,
        progress,
        ConsumedFile(folder, world, inputs.order.batch_size // world.size),
        metrics,
        tracker,
        _at_stage_end,
    )
    _make_up_evaluation(loop)
    loop.run()
    loop.consumed.close()
    tracker.finish()
    if claimed is not None and metrics is not None:
        metrics.close()
        export_checkpoint(folder, folder / EXPORT)
        claimed.finish()
        log.info("run %s is finished: %s tokens in %s steps", folder, progress.tokens, progress.step)
    engine.destroy()


def _resume(folder: Path, engine: Engine, inputs: Inputs, world: World) -> Progress:
    """Load the newest whole checkpoint, the same on every rank; a run without one begins at step 0."""
    found = checkpoint.newest(folder / CHECKPOINTS) if world.first else None
    step = world.same(int(found.name.removeprefix("step_")) if found else 0)
    if step == 0:
        return Progress()
    manifest = checkpoint.load(checkpoint.folder_of(folder / CHECKPOINTS, step), engine)
    order = inputs.order
    assert manifest.facts["cursor"] == min(step * order.batch_size, len(order)), (
        "checkpoint and order disagree about the cursor"
    )
    if world.first:
        log.info("resumed from step %s of %s", step, order.steps)
    return Progress(step, manifest.facts["tokens"])


def _at_stage_end(loop: Loop, stage: int) -> None:
    """Checkpoint, then evaluate: a crash in the evaluation costs the evaluation alone."""
    folder = Path(loop.settings.output)
    loop.consumed.sync()
    if loop.metrics is not None:
        loop.metrics.sync()
    step = loop.progress.step
    cursor = min(step * loop.inputs.order.batch_size, len(loop.inputs.order))
    fingerprints = {name: value for name, value in loop.inputs.fingerprints.items() if value is not None}
    checkpoint.save(
        folder / CHECKPOINTS,
        loop.engine,
        loop.world,
        step=step,
        cursor=cursor,
        tokens=loop.progress.tokens,
        config=identity(loop.settings),
        inputs=fingerprints,
    )
    if loop.world.first:
        checkpoint.prune(folder / CHECKPOINTS, loop.settings.keep_checkpoints)
    _evaluate(loop, stage)


def _make_up_evaluation(loop: Loop) -> None:
    """Evaluate a stage whose checkpoint was written but whose evaluation was cut off."""
    stage_ends = loop.inputs.order.stage_ends
    missing = (
        loop.metrics is not None and loop.progress.step in stage_ends and loop.progress.step not in loop.metrics.stages
    )
    if loop.world.same(int(missing)):
        _evaluate(loop, stage_ends.index(loop.progress.step) + 1)


def _evaluate(loop: Loop, stage: int) -> None:
    began = time.perf_counter()
    with torch.inference_mode():
        values = evaluate(loop.engine.decoder, loop.inputs, loop.settings.heldout, loop.settings.benchmarks, loop.world)
    record = {"kind": "stage", "stage": stage, "step": loop.progress.step, "tokens": loop.progress.tokens, **values}
    loop.record({**record, "time/evaluation_s": time.perf_counter() - began})
    if loop.metrics is not None:
        loop.metrics.sync()


def quiet_ranks() -> None:
    """Let rank 0 alone speak below the level of warnings."""
    first = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if first else logging.WARNING, format="%(message)s", force=True)
    for name in ("DeepSpeed", "filelock", "fsspec", "httpx", "datasets", "lm_eval"):
        logging.getLogger(name).setLevel(logging.WARNING)
