"""Rank 0 locks and checks the RUN folder; the run is then admitted or refused on all ranks."""

from __future__ import annotations

import logging
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from curriculum.artifact.manifest import open_manifest
from curriculum.order.contents import contents_of
from curriculum.scores.findings import FINDINGS
from train import checkpoint
from train.config.packages import code_fingerprint, drift
from train.distributed.exit_codes import REFUSED, Refused
from train.distributed.world import World
from train.inputs import Inputs, check_scores, verify_inputs
from train.records.layout import CHECKPOINTS, WANDB_ID
from train.resume.branching import begin_branch
from train.resume.identity import Change, is_accepted
from train.resume.lineage import check_resume, conversion, work_split
from train.resume.rate import check_rate
from train.resume.runfolder import RunFolder
from train.settings import TrainSettings

log = logging.getLogger(__name__)


def claim_run(folder: Path, settings: TrainSettings, inputs: Inputs, world: World) -> tuple[RunFolder | None, int]:
    """Claim the RUN folder on rank 0; if it refuses the run, raise Refused with the same exit code on every rank.

    Return the claimed folder (None on other ranks) and the step to resume from, known on rank 0 only.
    """
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
        raise refusal or Refused("rank 0 refused the run: see its message in the log of rank 0", code)
    return claimed


def _claim(folder: Path, settings: TrainSettings, inputs: Inputs, world: World) -> tuple[RunFolder, int]:
    """Lock, check and describe the RUN folder; return it and the step of the newest complete checkpoint. Rank 0 only.

    Raises Refused, leaving the folder unchanged, if the run does not match: for example if the checkpoint was trained
    on other samples than this order begins with.
    """
    paths = {name: str(Path(path).absolute()) if path else None for name, path in asdict(settings.data).items()}
    arranged = inputs.order.manifest
    split = work_split(settings, inputs.order.batch_size, world.size)
    extra = {
        "arranged": {
            "preference": arranged.config.get("preference"),
            "inputs": arranged.inputs,
            **contents_of(inputs.order),
            **({"twin": arranged.config["twin"]["kind"]} if "twin" in arranged.config else {}),
        },
        "parameters": inputs.decoder.parameter_count(),
        "device": torch.cuda.get_device_name(world.device) if world.device.type == "cuda" else world.device.type,
        "code": code_fingerprint(),
        "harness": version("lm_eval") if settings.benchmarks.tasks else None,
        **split,
        "paths": {**paths, "slice": arranged.facts["slice"]},
        FINDINGS: {"unusable": [], "others": []},
        **({"initial": inputs.initial.as_fact()} if inputs.initial else {}),
        **inputs.findings.as_fact(),
    }
    claimed: RunFolder | None = None
    try:
        begin_branch(settings, inputs.order, folder)
        claimed = RunFolder.claim(folder)
        attempts = claimed.facts.get("lives", [])
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
            check_resume(found, inputs.order, is_accepted(order, settings.accept_change, attempts))
            accepted += check_rate(found, settings, inputs, claimed.facts)
        step = checkpoint.step_of(found) if found else 0
        restarted = {name for attempt in attempts if attempt["step"] == step for name in attempt.get("set_aside", [])}
        restarted |= {WANDB_ID} if "branch" in claimed.facts else set()  # a W&B run of its own, not the trunk's
        damaged = checkpoint.damaged_records(folder, manifest, restarted)
        checkpoint.set_aside(folder, damaged)
        recorded = claimed.facts.get("versions") or (manifest.facts.get("versions", {}) if manifest else {})
        for line in drift(recorded):
            log.warning("%s", line)
        converted = conversion(attempts, step, split)
        claimed.describe(settings, inputs, step, accepted, damaged, extra)
    except ValueError as error:
        if claimed is not None:
            claimed.abandon()
        raise Refused(str(error), getattr(error, "exit_code", REFUSED)) from error
    if converted:
        log.info("%s", converted)
    return claimed, step
