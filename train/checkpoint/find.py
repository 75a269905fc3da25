"""Which checkpoint is the newest that can be trusted? The newest whose manifest and files all match their checksums."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from curriculum.artifact import ArtifactError, FileEntry, Manifest, hash_file, open_manifest

log = logging.getLogger(__name__)

KIND = "checkpoint"
NAME = re.compile(r"step_(\d{8,})")


def folder_of(checkpoints: Path, step: int) -> Path:
    """Return the folder of the checkpoint after `step` steps."""
    return checkpoints / f"step_{step:08d}"


def step_of(folder: Path) -> int:
    """Return the step in the name of a checkpoint's folder."""
    found = NAME.fullmatch(folder.name)
    assert found is not None, f"{folder} is not the folder of a checkpoint"
    return int(found.group(1))


def candidates(checkpoints: Path) -> list[Path]:
    """Return the checkpoint folders, newest first, unchecked; a link is none, nor is what is being written."""
    if not checkpoints.is_dir():
        return []
    there = [path for path in checkpoints.iterdir() if NAME.fullmatch(path.name) and not path.is_symlink()]
    return sorted(there, key=step_of, reverse=True)


def newest(checkpoints: Path) -> Path | None:
    """Return the newest checkpoint whose files all match their checksums; damaged ones are named in the log.

    Reads every byte of it, O(its size).
    """
    for folder in candidates(checkpoints):
        try:
            step = verified(folder).facts.get("step")
            if folder != folder_of(checkpoints, step_of(folder)) or step != step_of(folder):
                raise ArtifactError(f"{folder} holds the checkpoint of step {step}: give it its own name back")
            return folder
        except (ArtifactError, OSError) as error:
            log.warning("checkpoint passed over: %s", error)
    return None


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
