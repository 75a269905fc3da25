"""Writing artifacts: into a temporary sibling folder, renamed into place when complete."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from curriculum.artifact.drafts import draft_of, remove_abandoned
from curriculum.artifact.files import (
    DISK_FULL,
    ArtifactError,
    FileEntry,
    as_json,
    code_version,
    differing,
    hash_file,
    sync,
    write_text,
)
from curriculum.artifact.manifest import (
    FORMAT_VERSION,
    MANIFEST,
    Manifest,
    OutsideFile,
    checksum_of,
    identity_of,
    open_manifest,
)
from curriculum.artifact.outputs import check_place, named, others


@dataclass
class Draft:
    """An artifact being written: put files into `path`, facts (JSON values) into `facts`, and files outside the
    folder, each under a unique name, into `outside`."""

    path: Path
    facts: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, FileEntry] = field(default_factory=dict)
    """Files whose size and checksum are known from writing them; all others are read once more."""
    outside: dict[str, OutsideFile] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    """Fingerprints of the inputs, by name; they may become known while the artifact is written."""


@contextmanager
def create(
    folder: Path, kind: str, *, config: Mapping[str, Any], inputs: Mapping[str, str] | None = None
) -> Iterator[Draft]:
    """Write an artifact: yield a temporary sibling of `folder`; rename it to `folder` when the block succeeds.

    An exception removes the temporary folder; a killed process leaves it, and the next `create` of the same folder
    removes it once its writer is gone (curriculum/artifact/drafts.py). Raises ArtifactError when `folder` already
    exists and is not an empty folder.
    """
    folder = Path(folder)
    check_place("output", folder)
    if not _vacant(folder):
        raise ArtifactError(f"{folder} already exists: choose another output or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = draft_of(folder)
    temporary.mkdir()
    remove_abandoned(folder.parent, folder.name, now=temporary.stat().st_mtime)
    draft = Draft(temporary, inputs=dict(inputs or {}))
    try:
        yield draft
        write_manifest(
            temporary,
            kind,
            config=config,
            inputs=draft.inputs,
            facts=draft.facts,
            outside=draft.outside,
            known=draft.entries,
        )
        publish(temporary, folder)
    except BaseException as error:
        written = sum(path.stat().st_size for path in temporary.rglob("*") if path.is_file())
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in DISK_FULL:
            raise OSError(
                error.errno,
                f"{os.strerror(error.errno)} after {written} bytes of {kind} {folder}: the partial output was removed; "
                "free disk space there, or choose an output on another disk, and run again",
            ) from error
        raise


def write_manifest(
    folder: Path,
    kind: str,
    *,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    facts: Mapping[str, Any],
    outside: Mapping[str, OutsideFile] | None = None,
    known: Mapping[str, FileEntry] | None = None,
) -> Manifest:
    """Hash and sync every file below `folder`, and write its manifest last.

    Files in `known` were hashed when they were written, files `outside` when they were read.
    """
    outside, known = outside or {}, known or {}
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST):
        name = path.relative_to(folder).as_posix()
        files[name] = known[name] if name in known else hash_file(path)
        assert files[name].bytes == path.stat().st_size, f"{path} is not as long as the bytes written to it"
        sync(path)
    if missing := sorted(set(known) - set(files)):
        raise ArtifactError(f"{folder / missing[0]} disappeared while the {kind} was being written: run again")
    manifest = Manifest(
        kind=kind,
        format_version=FORMAT_VERSION,
        code_version=code_version(),
        config=dict(config),
        inputs=dict(inputs),
        facts=dict(facts),
        files=files,
        fingerprint=identity_of(kind, inputs, facts, files, outside),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        outside=dict(outside),
    )
    fields = as_json(asdict(manifest))
    manifest = replace(manifest, checksum=checksum_of(fields))
    write_text(
        folder / MANIFEST, json.dumps({**fields, "checksum": manifest.checksum}, indent=1, sort_keys=True) + "\n"
    )
    return manifest


def publish(temporary: Path, folder: Path) -> None:
    """Rename a finished temporary folder into place and make the rename durable.

    Raises ArtifactError when another process created the folder in the meantime.
    """
    for inner in sorted(p for p in temporary.rglob("*") if p.is_dir()):
        sync(inner)
    sync(temporary)
    try:
        os.rename(temporary, folder)
    except OSError as error:
        if folder.exists():
            raise ArtifactError(
                f"{folder} was created by another process: run again to use it, or choose another output"
            ) from error
        raise
    sync(folder.parent)


def reusable(folder: Path, kind: str, *, config: Mapping[str, Any], inputs: Mapping[str, str]) -> bool:
    """Return whether `folder` holds exactly what `config` and `inputs` would produce.

    False: it does not exist, or is empty. True: it is complete and up to date. Raises ArtifactError when it holds
    something else, naming each key that differs.
    """
    folder = Path(folder)
    if not os.path.isfile(folder / MANIFEST):  # False for a name that is too long
        check_place("output", folder)
    if _vacant(folder):
        return False
    if not (folder / MANIFEST).is_file():
        found = others(folder, ()) if folder.is_dir() else []
        what = f"contains other files ({named(found)})" if found else "is a file, or a link to an empty folder"
        raise ArtifactError(
            f"{folder} {what} and has no {MANIFEST}: it is not a complete {kind} artifact; choose another output"
        )
    manifest = open_manifest(folder, kind)
    differences = [
        f"{key}: found {there!r}, requested {asked!r}"
        for old, new in ((manifest.config, as_json(config)), (manifest.inputs, as_json(inputs)))
        for key, there, asked in differing(old, new)
    ]
    if differences:
        raise ArtifactError(
            f"{folder} was written with other settings or inputs ({'; '.join(differences)}): "
            "choose another output, or remove the folder to recreate it"
        )
    return True


def _vacant(folder: Path) -> bool:
    """Return whether an artifact can be renamed to `folder`: it does not exist, or is an empty folder."""
    return not folder.exists() or (folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()))
