"""The learning rate of a run that resumes with an order of another length: it must not move without a word."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curriculum.artifact.files import ArtifactError
from curriculum.artifact.manifest import open_manifest
from curriculum.order.contents import contents_of
from curriculum.order.order import Order
from train import checkpoint
from train.inputs import Inputs
from train.resume.identity import SCHEDULE_STEPS, Change, is_accepted
from train.resume.lineage import ChangedRun
from train.schedule import Schedule
from train.settings import TrainSettings

log = logging.getLogger(__name__)

SAME_RATE = 0.01
"""Relative change of the next step's rate up to which nothing is asked: steps are whole numbers."""


def check_rate(folder: Path, settings: TrainSettings, inputs: Inputs, facts: Mapping[str, Any]) -> list[Change]:
    """Return the accepted change of the schedule's length, if the order of the run moves the rate of its next step.

    `folder`: the checkpoint to resume from; `facts`: run.json of earlier attempts. Raises ChangedRun, with the rate
    before and after, unless the change is accepted. Says so if the length of the earlier order is not known.
    """
    manifest = open_manifest(folder, checkpoint.KIND)
    step, trained_on = int(manifest.facts["step"]), manifest.inputs.get("order")
    if trained_on == inputs.order.fingerprint or step >= inputs.order.steps:
        return []
    before = _contents(trained_on, facts)
    if before is not None and before["samples"] == len(inputs.order):
        return []
    if before is None:
        log.warning(
            "the length of order %s, with which the run began, is not known: the learning rate may move at step %s",
            *(trained_on, step),
        )
        return []
    old = Schedule.over(
        settings.schedule, settings.optimizer.lr, before["steps"], before["batch_sizes"], inputs.tokens.seq_len
    )
    was, now = old(step), inputs.schedule(step)
    if math.isclose(was, now, rel_tol=SAME_RATE):
        return []
    change = Change(SCHEDULE_STEPS, old.steps, inputs.schedule.steps)
    text = (
        f"the learning rate of step {step + 1:,} moves from {was:.4g} to {now:.4g} (x {now / was:.3g}): the run was "
        f"planned over {old.steps:,} steps, and order {inputs.order.folder} has {inputs.schedule.steps:,}"
    )
    if not is_accepted(change, settings.accept_change, facts.get("lives", [])):
        raise ChangedRun(
            f"{text}. Replan without preference.uses to keep the length, or resume with the change on record: "
            f"--accept-change {SCHEDULE_STEPS}"
        )
    log.warning("accepted on record: %s", text)
    return [change]


def _contents(fingerprint: str | None, facts: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the contents of an earlier order: as an attempt recorded them, or of the folder at its recorded path."""
    for attempt in reversed(facts.get("lives", [])):
        recorded = attempt.get("arranged", {})
        if attempt.get("order") == fingerprint and "batch_sizes" in recorded:
            return dict(recorded)
    path = facts.get("paths", {}).get("order")
    try:
        order = Order.open(path) if path else None
    except (ArtifactError, OSError):
        return None
    return contents_of(order) if order is not None and order.fingerprint == fingerprint else None
