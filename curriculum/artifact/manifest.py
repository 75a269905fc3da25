"""Artifacts: folders that are complete or absent.

Every artifact is a folder with a `manifest.json` that records its kind, the code that wrote it, its inputs and the
size and checksum of every file. It is written to a temporary sibling and renamed. An artifact may also depend on
files outside its folder (tokens written by another tool): they are listed by absolute path, with size and checksum.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from curriculum.artifact.files import ArtifactError, FileEntry, fingerprint_of, hash_file, read_text, reading

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MAY_USE_OUTSIDE_FILES = ("tokens",)
"""Kinds of artifacts that may read files in place; any other manifest that lists outside files is rejected."""


class OtherVersion(ArtifactError):
    """An artifact is intact, but was written by another version of PDPC."""


@dataclass(frozen=True)
class OutsideFile:
    """A file outside an artifact's folder that the artifact depends on."""

    path: str
    """Absolute path; not part of any fingerprint."""
    bytes: int
    xxh3_128: str


@dataclass(frozen=True)
class Manifest:
    """The contents of `manifest.json`."""

    kind: str
    format_version: int
    code_version: str
    config: dict[str, Any]
    inputs: dict[str, str]
    facts: dict[str, Any]
    files: dict[str, FileEntry]
    fingerprint: str
    created_at: str
    outside: dict[str, OutsideFile] = field(default_factory=dict)
    checksum: str = ""
    """Digest of all other fields."""


def identity_of(
    kind: str,
    inputs: Mapping[str, str],
    facts: Mapping[str, Any],
    files: Mapping[str, FileEntry],
    outside: Mapping[str, OutsideFile],
) -> str:
    """Return the fingerprint of an artifact: a digest of its kind, inputs, facts and file contents.

    `facts.records` is excluded: it covers files next to a checkpoint that hold timestamps, which are not part of the
    checkpoint's identity.
    """
    facts = {key: value for key, value in facts.items() if key != "records"}
    identity: dict[str, Any] = {"kind": kind, "format_version": FORMAT_VERSION, "inputs": dict(inputs)}
    if outside:
        identity["outside"] = {name: entry.xxh3_128 for name, entry in outside.items()}
    contents = {name: entry.xxh3_128 for name, entry in files.items()}
    return fingerprint_of({**identity, "facts": dict(facts), "files": contents})


def checksum_of(fields: Mapping[str, Any]) -> str:
    """Return the digest of a manifest's fields, except the checksum itself."""
    text = json.dumps({key: value for key, value in fields.items() if key != "checksum"}, sort_keys=True)
    return xxhash.xxh3_128_hexdigest(text.encode())


def open_manifest(folder: Path, kind: str) -> Manifest:
    """Read an artifact's manifest and check its kind, version and the size of every file (contents: see `verify`).

    Raises ArtifactError naming what is missing, incomplete or foreign, and the fix.
    """
    folder = Path(folder)
    manifest = read_manifest(folder, kind)
    if manifest.outside and kind not in MAY_USE_OUTSIDE_FILES:
        raise ArtifactError(f"{folder} lists files outside itself, which no {kind} does: do not trust this artifact")
    home = os.path.realpath(folder)
    for name, entry in manifest.files.items():
        path = folder / name
        if os.path.realpath(path) != os.path.join(home, name):
            raise ArtifactError(f"{path} is a symlink, or below one: copy the file itself into {folder}")
        if not path.is_file():
            raise ArtifactError(f"{path} is missing, but {MANIFEST} lists it: remove {folder} and recreate it")
        size = path.stat().st_size
        if size != entry.bytes:
            raise ArtifactError(
                f"{path} has {size} bytes instead of {entry.bytes}: it is damaged; remove {folder} and recreate it"
            )
    for foreign in manifest.outside.values():
        _check_outside(folder, foreign)
    return manifest


def _check_outside(folder: Path, entry: OutsideFile) -> None:
    path = Path(entry.path)
    remedy = f"restore it, or remove {folder} and recreate it"
    if not path.is_file():
        raise ArtifactError(f"{path} is missing, but {folder} reads it in place: {remedy} from its new location")
    size = path.stat().st_size
    if size != entry.bytes:
        raise ArtifactError(
            f"{path} has {size} bytes instead of {entry.bytes}: it changed after {folder} was written; {remedy}"
        )


def read_manifest(folder: Path, kind: str) -> Manifest:
    """Read an artifact's manifest, checking its own checksum, kind and version but none of the files it lists."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ArtifactError(f"{kind} folder {folder} does not exist: check the path or create it first")
    if not path.is_file():
        raise ArtifactError(f"{folder} has no {MANIFEST}: it is not a complete {kind} artifact")
    if path.is_symlink():
        raise ArtifactError(f"{path} is a symlink: copy the file itself into {folder}")
    with reading(path, f"recreate {folder}"):
        data = json.loads(read_text(path))
        if data.get("checksum") != checksum_of(data):
            raise ArtifactError(f"{path} does not match its own checksum: it is damaged; recreate {folder}")
        files = {str(name): FileEntry(**entry) for name, entry in data.pop("files").items()}
        outside = {str(name): OutsideFile(**entry) for name, entry in data.pop("outside", {}).items()}
        manifest = Manifest(files=files, outside=outside, **data)
        _check_types(manifest)
    if manifest.kind != kind:
        raise ArtifactError(f"{folder} is a {manifest.kind!r} artifact, not {kind!r}: check the path")
    if manifest.format_version != FORMAT_VERSION:
        raise OtherVersion(
            f"{folder} has format version {manifest.format_version}, but this PDPC reads {FORMAT_VERSION}: "
            "recreate it, or use the PDPC version that wrote it"
        )
    for name in manifest.files:
        if os.path.isabs(name) or name != os.path.normpath(name) or name.startswith(".."):
            raise ArtifactError(f"{path} lists a file outside its folder, {name!r}: do not trust this artifact")
    return manifest


def _check_types(manifest: Manifest) -> None:
    """Raise TypeError when a manifest field has the wrong type: readers rely on them."""
    for key in ("config", "inputs", "facts"):
        if not isinstance(getattr(manifest, key), dict):
            raise TypeError(f"{key} is not an object")
    for key in ("kind", "code_version", "fingerprint", "created_at"):
        if not isinstance(getattr(manifest, key), str):
            raise TypeError(f"{key} is not a string")
    entries: list[FileEntry | OutsideFile] = [*manifest.files.values(), *manifest.outside.values()]
    for entry in entries:
        if type(entry.bytes) is not int or entry.bytes < 0 or not isinstance(entry.xxh3_128, str):
            raise TypeError(f"{entry} lacks the size in bytes or the checksum of a file")
    if not all(isinstance(entry.path, str) for entry in manifest.outside.values()):
        raise TypeError("the path of an outside file is not a string")


def verify(folder: Path, limit_bytes: float = math.inf) -> None:
    """Read every file of an artifact of at most `limit_bytes`, including outside files, and compare its checksum.

    Raises ArtifactError naming the first file that does not match.
    """
    folder = Path(folder)
    kind = kind_of(folder)
    manifest = open_manifest(folder, kind)
    for name, entry in manifest.files.items():
        if entry.bytes <= limit_bytes and hash_file(folder / name) != entry:
            raise ArtifactError(f"{folder / name} does not match its checksum: it is damaged; recreate {folder}")
    for foreign in manifest.outside.values():
        if foreign.bytes <= limit_bytes and hash_file(Path(foreign.path)) != FileEntry(foreign.bytes, foreign.xxh3_128):
            raise ArtifactError(
                f"{foreign.path} does not match its checksum: it changed after {folder} was written; "
                f"restore the old file, or remove {folder} and recreate it"
            )


def kind_of(folder: Path) -> str:
    """Return the kind of an artifact. Raises ArtifactError when `folder` is not one."""
    try:
        return str(json.loads(read_text(folder / MANIFEST))["kind"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(
            f"{folder} has no readable {MANIFEST} ({error}): it is not an artifact, or a damaged one: recreate it"
        ) from error
