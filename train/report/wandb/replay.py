"""Replay: metrics.jsonl of a RUN as one clean W&B run, online or offline.

A run that was resumed, rolled back or offline may be in W&B in pieces, or with steps twice; metrics.jsonl has each step
once. The replayed run's id follows from the run's own and from what metrics.jsonl holds: the same file is the same run,
in which no step comes twice, and a file that has grown is a new run beside the old one.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from curriculum.artifact.manifest import fingerprint_of, reading
from train.resume.runfolder import read_run
from train.tracking.background import in_a_line
from train.tracking.metrics import METRICS, in_order, read_metrics
from train.tracking.settings import TrackerSettings
from train.tracking.tracker import without_keys
from train.tracking.wandb_run import WandbRun, mode, run_id, shown

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Replayed:
    """A RUN as W&B has it, or will have it once its offline folder is synced."""

    arm: str
    id: str
    project: str
    entity: str | None
    """W&B user or team; None: the key's own, offline."""
    names: frozenset[str]
    """What was logged."""


def replay(folder: Path) -> Replayed:
    """Send every record of a RUN to W&B as a run of its own.

    Raises ValueError when there is nothing to send, OSError when W&B is out of reach.
    """
    facts = read_run(folder)
    records = in_order(read_metrics(folder / METRICS)) if (folder / METRICS).is_file() else []
    if not records:
        raise ValueError(f"{folder / METRICS} holds no record yet: replay the run when it has one")
    own_id = run_id(folder)
    made_id = f"{own_id}-{fingerprint_of([own_id, records])[:8]}"
    settings = wandb_settings(folder)
    names = frozenset(name for record in records for name in shown(record))
    replayed = Replayed(facts["arm"], made_id, settings.project, settings.entity, names)
    if mode() == "offline" and any((folder / "wandb").glob(f"offline-run-*-{made_id}")):
        log.info("%s is in %s already, as W&B run %s", folder / METRICS, folder / "wandb", made_id)
        return replayed
    config = {**facts["identity"], **facts["fingerprints"], "replay_of": own_id}
    destination = WandbRun(settings, folder, facts["arm"], without_keys(config), made_id)
    try:
        destination.connect()
        entity, project = destination.place
        for record in records:
            destination.send(record)
        destination.finish()
    except Exception as error:
        raise OSError(
            f"W&B is out of reach ({in_a_line(error)}): run the same command again, or with WANDB_MODE=offline "
            "and send it later (wandb sync)"
        ) from None
    log.info("%s records of %s are W&B run %s (%s)", len(records), folder, made_id, mode())
    return replace(replayed, entity=entity or replayed.entity, project=project)


def wandb_settings(folder: Path) -> TrackerSettings:
    """Return what the run said of W&B, with time to send all of it."""
    kept: dict[str, Any] = {}
    path = folder / "config.json"
    with reading(path, "restore it, or remove it to use the default project"):
        if path.is_file():
            kept = json.loads(path.read_text("utf-8")).get("tracker", {})
        known = {key: kept[key] for key in ("project", "entity", "group", "tags") if key in kept}
        return TrackerSettings(name="wandb", start_s=60.0, finish_s=600.0, **known)
