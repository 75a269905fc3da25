"""Checkpoint retention: keep the newest few, and every m-th permanently. Removal renames first, then deletes files."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

from curriculum.artifact.files import ArtifactError, sync
from curriculum.artifact.manifest import open_manifest
from train.checkpoint.find import DAMAGED, KIND, NAME, aside_of, candidates, step_of
from train.faults import fault
from train.settings import CheckpointSettings

log = logging.getLogger(__name__)

TEMPORARY = ".tmp-"
"""In the name of a folder that is being written or removed."""


def temporary_of(folder: Path) -> Path:
    """Return a unique name under which a checkpoint is written or removed."""
    return folder.with_name(f"{folder.name}{TEMPORARY}{secrets.token_hex(4)}")


def clean(checkpoints: Path, step: int) -> None:
    """Remove leftovers of killed saves, and set aside every checkpoint after `step`: those were found damaged.

    They are kept until the run has passed their step again (`prune`). Requires the run's lock: nobody else writes here.
    """
    if not checkpoints.is_dir():
        return
    for left in checkpoints.glob(f"step_*{TEMPORARY}*"):
        shutil.rmtree(left)
    for folder in candidates(checkpoints):
        if step_of(folder) > step:
            aside = aside_of(folder)
            log.warning("checkpoint %s set aside as %s: the run resumes from step %s", folder, aside.name, step)
            os.rename(folder, aside)


def prune(checkpoints: Path, settings: CheckpointSettings, stage_ends: Collection[int] = ()) -> None:
    """Remove all checkpoints except the newest `keep_last` and those that the settings keep permanently.

    Damaged ones are removed once the run has passed their step again. Call it after publishing a checkpoint, which is
    then the newest and stays.
    """
    fault("checkpoint.before_prune")
    found = candidates(checkpoints)
    stages = stage_ends if settings.keep_stages else ()
    for folder, kept in zip(found, kept_of([number_of(folder) for folder in found], settings), strict=True):
        if not kept and step_of(folder) not in stages:
            remove(folder)
    for aside in checkpoints.glob(f"step_*{DAMAGED}*"):
        before = aside.with_name(aside.name.partition(DAMAGED)[0])
        if found and NAME.fullmatch(before.name) and step_of(before) <= step_of(found[0]):
            remove(aside)


def kept_of(numbers: Sequence[int], settings: CheckpointSettings) -> list[bool]:
    """Return which checkpoints to keep, given their numbers in the run, newest first."""
    every = settings.keep_every
    return [
        place < settings.keep_last or (every is not None and number > 0 and number % every == 0)
        for place, number in enumerate(numbers)
    ]


def number_of(folder: Path) -> int:
    """Return the ordinal number of a checkpoint in its run, from 1; 0 if its manifest has none."""
    try:
        number = open_manifest(folder, KIND).facts.get("number")
    except (ArtifactError, OSError):
        return 0
    return number if isinstance(number, int) else 0


def remove(folder: Path) -> None:
    """Remove a checkpoint; if interrupted, nothing is left under its name."""
    temporary = temporary_of(folder)
    os.rename(folder, temporary)
    fault("checkpoint.in_prune")
    sync(folder.parent)
    shutil.rmtree(temporary)
