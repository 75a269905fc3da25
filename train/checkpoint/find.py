"""Find the newest valid checkpoint: the newest one whose manifest and files all match their checksums.

An unreadable checkpoint is not treated as damaged: falling back to an older one would repeat training that exists.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from curriculum.artifact.files import ArtifactError, FileEntry, hash_file
from curriculum.artifact.manifest import Manifest, OtherVersion, open_manifest
from train.distributed.exit_codes import UNREADABLE

log = logging.getLogger(__name__)

KIND = "checkpoint"
NAME = re.compile(r"step_(\d{8,})")
DAMAGED = ".damaged"
"""Suffix of damaged files and folders that are kept."""


class UnreadableCheckpoint(ArtifactError):
    """A checkpoint that is needed cannot be read or listed: the disk or the network returned an error."""

    exit_code = UNREADABLE

    @classmethod
    def of(cls, folder: Path, error: OSError) -> UnreadableCheckpoint:
        """Return the error for a checkpoint folder, or the folder of all checkpoints, that cannot be read."""
        return cls(
            f"{folder} cannot be read ({error}): run the same command once its disk is back, or, if the checkpoint is "
            "lost, move it away to resume from the previous one"
        )


def folder_of(checkpoints: Path, step: int) -> Path:
    """Return the folder of the checkpoint after `step` steps."""
    return checkpoints / f"step_{step:08d}"


def step_of(folder: Path) -> int:
    """Return the step in the name of a checkpoint folder."""
    found = NAME.fullmatch(folder.name)
    assert found is not None, f"{folder} is not a checkpoint folder"
    return int(found.group(1))


def candidates(checkpoints: Path) -> list[Path]:
    """Return the checkpoint folders, newest first, unverified; symlinks and unfinished folders are left out.

    Raises UnreadableCheckpoint.
    """
    try:
        if not checkpoints.is_dir():
            return []
        there = [path for path in checkpoints.iterdir() if NAME.fullmatch(path.name) and not path.is_symlink()]
    except OSError as error:
        raise UnreadableCheckpoint.of(checkpoints, error) from error
    return sorted(there, key=step_of, reverse=True)


def aside_of(path: Path) -> Path:
    """Return the first free name for keeping a damaged file or folder: NAME.damaged, NAME.damaged-2 ..."""
    number = 1
    while (aside := path.with_name(f"{path.name}{DAMAGED}{f'-{number}' if number > 1 else ''}")).exists():
        number += 1
    return aside


def newest(checkpoints: Path) -> Path | None:
    """Return the newest valid checkpoint, None if there is none. Reads every byte of it. Raises as `whole` does."""
    return next((folder for folder, _ in whole(checkpoints)), None)


def whole(checkpoints: Path) -> Iterator[tuple[Path, Manifest]]:
    """Yield the checkpoints whose files all match their checksums, newest first; damaged ones are logged and skipped.

    Reads every byte of each checkpoint. Raises UnreadableCheckpoint for one that cannot be read, OtherVersion for one
    that was written by another version of PDPC.
    """
    for folder in candidates(checkpoints):
        try:
            manifest = verified(folder)
            step = manifest.facts.get("step")
            if folder != folder_of(checkpoints, step_of(folder)) or step != step_of(folder):
                raise ArtifactError(f"{folder} holds the checkpoint of step {step}: restore its original name")
        except OtherVersion:
            raise
        except (ArtifactError, FileNotFoundError) as error:  # a live run may have just removed it
            log.warning("checkpoint skipped: %s", error)
            continue
        except OSError as error:
            raise UnreadableCheckpoint.of(folder, error) from error
        yield folder, manifest


def verified(folder: Path) -> Manifest:
    """Verify every file of a checkpoint against its checksum; return the manifest.

    Raises ArtifactError naming the first bad file, OSError if it cannot be read.
    """
    manifest = open_manifest(folder, KIND)
    for name, entry in manifest.files.items():
        check_file(folder / name, entry)
    return manifest


def check_file(path: Path, entry: FileEntry) -> None:
    """Raise ArtifactError unless a file has the size and checksum in the manifest."""
    found = hash_file(path)
    if found != entry:
        same_size = found.bytes == entry.bytes
        what = "does not match its checksum" if same_size else f"has {found.bytes} bytes instead of {entry.bytes}"
        raise ArtifactError(f"{path} {what}: it is damaged; resume from the previous checkpoint")
