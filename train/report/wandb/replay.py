"""Replay: metrics.jsonl of a RUN as one clean W&B run, online or offline.

A run that was resumed, rolled back or offline may be in W&B in pieces or with duplicate steps; metrics.jsonl has each
step once. The id of the replayed run is computed from the run's own id and the contents of metrics.jsonl: replaying the
same file gives the same W&B run, without duplicate steps, and replaying a file that has grown gives a new run.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from curriculum.artifact.files import fingerprint_of, read_text, reading
from train.records.layout import METRICS
from train.records.run_json import read_run
from train.tracking.background import error_line
from train.tracking.metrics import in_order, read_metrics
from train.tracking.settings import TrackerSettings
from train.tracking.tracker import without_keys
from train.tracking.wandb_run import WandbRun, mode, run_id, shown

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Replayed:
    """A RUN as it is in W&B, or will be once its offline folder is synced."""

    arm: str
    id: str
    project: str
    entity: str | None
    """W&B user or team; None: the default entity of the API key, offline."""
    names: frozenset[str]
    """Names of the logged metrics."""


def replay(folder: Path) -> Replayed:
    """Send every record of a RUN to W&B as a new run.

    Raises ValueError if there is nothing to send, OSError if W&B is unreachable.
    """
    facts = read_run(folder)
    records = in_order(read_metrics(folder / METRICS)) if (folder / METRICS).is_file() else []
    if not records:
        raise ValueError(f"{folder / METRICS} has no records yet: replay the run once it has logged one")
    own_id = run_id(folder)
    made_id = f"{own_id}-{fingerprint_of([own_id, records])[:8]}"
    settings = wandb_settings(folder)
    names = frozenset(name for record in records for name in shown(record))
    replayed = Replayed(facts["arm"], made_id, settings.project, settings.entity, names)
    if mode() == "offline" and any((folder / "wandb").glob(f"offline-run-*-{made_id}")):
        log.info("%s is already in %s, as W&B run %s", folder / METRICS, folder / "wandb", made_id)
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
            f"cannot reach W&B ({error_line(error)}): run the same command again, or use WANDB_MODE=offline "
            "and upload later with `wandb sync`"
        ) from None
    log.info("sent %s records of %s to W&B run %s (%s)", len(records), folder, made_id, mode())
    return replace(replayed, entity=entity or replayed.entity, project=project)


def wandb_settings(folder: Path) -> TrackerSettings:
    """Return the run's W&B settings, with timeouts long enough to send everything."""
    kept: dict[str, Any] = {}
    path = folder / "config.json"
    with reading(path, "restore it, or remove it to use the default project"):
        if path.is_file():
            kept = json.loads(read_text(path)).get("tracker", {})
        known = {key: kept[key] for key in ("project", "entity", "group", "tags") if key in kept}
        return TrackerSettings(name="wandb", start_s=60.0, finish_s=600.0, **known)
