"""The RUN folder locked and checked by rank 0: the run is admitted, or refused on every rank."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path

from curriculum.artifact.manifest import open_manifest
from train import checkpoint
from train.config.packages import drift
from train.distributed.exit_codes import REFUSED, Refused
from train.distributed.world import World
from train.inputs import Inputs, verify_inputs
from train.resume.identity import Change, is_accepted
from train.resume.lineage import check_resume, conversion, work_split
from train.resume.runfolder import CHECKPOINTS, RunFolder
from train.settings import TrainSettings

log = logging.getLogger(__name__)


def claim_run(folder: Path, settings: TrainSettings, inputs: Inputs, world: World) -> tuple[RunFolder | None, int]:
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
    }
    try:
        claimed = RunFolder.claim(folder)
        lives = claimed.facts.get("lives", [])
        found = None if claimed.finished else checkpoint.newest(folder / CHECKPOINTS)
        accepted = claimed.admit(settings, inputs, found)
        if claimed.finished:
            return claimed, 0
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
