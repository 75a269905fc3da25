"""Which checkpoint is the newest that can be trusted? The newest whose manifest and files all match their checksums.

What cannot be read is not damaged: a start that took an older checkpoint instead would train again what is there.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from pathlib import Path

from curriculum.artifact.manifest import ArtifactError, FileEntry, Manifest, OtherVersion, hash_file, open_manifest
from train.distributed.exit_codes import UNREADABLE

log = logging.getLogger(__name__)

KIND = "checkpoint"
NAME = re.compile(r"step_(\d{8,})")
DAMAGED = ".damaged"
"""Follows the name of what was found damaged and is kept."""


class UnreadableCheckpoint(ArtifactError):
    """A checkpoint that is needed is not to be had, or nobody can tell: the disk, or the network, does not give it."""

    exit_code = UNREADABLE

    @classmethod
    def of(cls, folder: Path, error: OSError) -> UnreadableCheckpoint:
        """Say that the system gave an error instead of the folder of a checkpoint, or of all."""
        return cls(
            f"{folder} cannot be read ({error}): when its disk answers again, run the same command; is the checkpoint "
            "lost for good, move it away, and the one before it is taken"
        )


def folder_of(checkpoints: Path, step: int) -> Path:
    """Return the folder of the checkpoint after `step` steps."""
    return checkpoints / f"step_{step:08d}"


def step_of(folder: Path) -> int:
    """Return the step in the name of a checkpoint's folder."""
    found = NAME.fullmatch(folder.name)
    assert found is not None, f"{folder} is not the folder of a checkpoint"
    return int(found.group(1))


def candidates(checkpoints: Path) -> list[Path]:
    """Return the checkpoint folders, newest first, unchecked; a link is none, nor is what is being written.

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
    """Return the first name under which what is damaged can be kept in its place: NAME.damaged, NAME.damaged-2 ..."""
    number = 1
    while (aside := path.with_name(f"{path.name}{DAMAGED}{f'-{number}' if number > 1 else ''}")).exists():
        number += 1
    return aside


def newest(checkpoints: Path) -> Path | None:
    """Return the newest whole checkpoint; None when there is none. Reads every byte of it. Raises as `whole`."""
    return next((folder for folder, _ in whole(checkpoints)), None)


def whole(checkpoints: Path) -> Iterator[tuple[Path, Manifest]]:
    """Yield the checkpoints whose files all match their checksums, newest first; damaged ones are named in the log.

    Reads every byte, O(its size) for each. Raises UnreadableCheckpoint for one that cannot be read, OtherVersion for
    one that another version of PDPC wrote.
    """
    for folder in candidates(checkpoints):
        try:
            manifest = verified(folder)
            step = manifest.facts.get("step")
            if folder != folder_of(checkpoints, step_of(folder)) or step != step_of(folder):
                raise ArtifactError(f"{folder} holds the checkpoint of step {step}: give it its own name back")
        except OtherVersion:
            raise
        except (ArtifactError, FileNotFoundError) as error:  # a run that goes on may have removed it just now
            log.warning("checkpoint passed over: %s", error)
            continue
        except OSError as error:
            raise UnreadableCheckpoint.of(folder, error) from error
        yield folder, manifest


def verified(folder: Path) -> Manifest:
    """Return the manifest of a checkpoint after every file of it was read and compared with its checksum.

    Raises ArtifactError naming the first bad file, OSError when the disk cannot read it.
    """
    manifest = open_manifest(folder, KIND)
    for name, entry in manifest.files.items():
        check_file(folder / name, entry)
    return manifest


def check_file(path: Path, entry: FileEntry) -> None:
    """Raise ArtifactError unless a file has the size and the checksum that the manifest says."""
    found = hash_file(path)
    if found != entry:
        what = "does not match its checksum" if found.bytes == entry.bytes else f"has {found.bytes} bytes"
        raise ArtifactError(f"{path} {what}: it is damaged; go on from the checkpoint before it")
