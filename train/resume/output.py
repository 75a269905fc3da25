"""What the output folder of a run may hold before the run writes to it."""

from __future__ import annotations

import os
from pathlib import Path

from curriculum.artifact.files import ArtifactError
from curriculum.artifact.manifest import MANIFEST
from curriculum.artifact.outputs import BYSTANDERS, check_place, named, others
from train import checkpoint
from train.records.layout import ADAPTER, BASE, CHECKPOINTS, EXPORT, FILES, FOLDERS, LOCK, RUN, TENSORBOARD, WANDB_ID
from train.records.run_json import read_run
from train.records.skipped import SKIPPED

OWN = (
    LOCK,
    *FOLDERS,
    EXPORT,
    BASE,
    ADAPTER,
    TENSORBOARD,
    "wandb",
    *(f"{name}*" for name in (*FILES, SKIPPED, WANDB_ID)),
    ".*.tmp-*",
)
"""Patterns of what a run writes before run.json, or leaves when run.json is removed."""


def check_output(path: Path) -> None:
    """Raise ValueError unless a folder is absent, empty, a RUN or the leftovers of one, and can be written."""
    check_place("output", path, inside=True)
    try:
        foreign = _foreign(path) if path.is_dir() else []
    except OSError as error:
        raise ValueError(
            f"output={path} cannot be read ({error}): choose a folder this user can read and write"
        ) from error
    if foreign:
        raise ValueError(f"output={path} contains other files ({named(foreign)}): choose a new folder")


def _foreign(path: Path) -> list[str]:
    """Return the names of the files that show that a folder is neither empty, nor a RUN, nor the leftovers of one.

    Raises ArtifactError for a run.json that is damaged or not of a run.
    """
    if (path / RUN).is_symlink():  # not followed; `refuse_links` names it
        return []
    if (path / RUN).is_file():
        read_run(path)
        return []
    if any((folder / MANIFEST).is_file() for folder in checkpoint.candidates(path / CHECKPOINTS)):
        return []  # run.json was removed, to resume from the newest checkpoint
    return others(path, (*OWN, *BYSTANDERS) if (path / LOCK).is_file() else BYSTANDERS)


def refuse_links(path: Path) -> None:
    """Raise ArtifactError when an entry of a RUN folder is a link: a run writes only into its folder.

    The folder itself may be a link. W&B's folder, which has links to its newest run, is left to W&B.
    """
    for inside in (path, *(path / name for name in FOLDERS)):
        for entry in os.scandir(inside) if inside.is_dir() else ():
            if entry.is_symlink():
                raise ArtifactError(
                    f"{entry.path} is a link to {os.readlink(entry.path)}, but a run writes only into its own folder: "
                    "copy the target there, or link the whole folder"
                )
