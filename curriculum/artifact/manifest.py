"""Artifacts: folders that are complete or absent.

Every artifact is a folder with a `manifest.json` that records its kind, the code that wrote it, its inputs and the
size and checksum of every file. It is written to a temporary sibling and renamed. An artifact may also depend on
files outside its folder (tokens written by another tool): they are listed by absolute path, with size and checksum.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import xxhash

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
MAY_USE_OUTSIDE_FILES = ("tokens",)
"""Kinds of artifacts that may read files in place; any other manifest that lists outside files is rejected."""
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a write that finds no space left."""


class ArtifactError(ValueError):
    """An artifact is missing, incomplete, foreign or stale; the message names the file and the fix."""


class OtherVersion(ArtifactError):
    """An artifact is intact, but was written by another version of PDPC."""


@dataclass(frozen=True)
class FileEntry:
    """Size and checksum of one file of an artifact."""

    bytes: int
    xxh3_128: str


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


MISREAD = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    RecursionError,
    NotImplementedError,
    MemoryError,
)
"""What a reader raises when the contents of a file are not what it expects."""


@contextmanager
def reading(path: Path, remedy: str) -> Iterator[None]:
    """Read or parse a file: any failure becomes an ArtifactError that names the file."""
    try:
        yield
    except ArtifactError:
        raise
    except (*MISREAD, OSError) as error:
        if type(error) is ValueError:  # its message already says what is wrong and what to do
            raise ArtifactError(str(error) if str(path) in str(error) else f"{path}: {error}") from error
        if isinstance(error, OSError) and error.errno is not None:  # a disk error; pyarrow's own errors have no errno
            raise
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise ArtifactError(f"{path} cannot be read ({reason}): {remedy}") from error


def fingerprint_of(value: Any) -> str:
    """Return the xxh3-128 digest (32 hex digits) of a JSON value in canonical form."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return xxhash.xxh3_128_hexdigest(text.encode())


def hash_file(path: Path) -> FileEntry:
    """Return the size in bytes and the xxh3-128 of a file, read in 8 MiB blocks."""
    digest = xxhash.xxh3_128()
    size = 0
    with open(path, "rb") as file:
        while block := file.read(8 << 20):
            digest.update(block)
            size += len(block)
    return FileEntry(size, digest.hexdigest())


@lru_cache(maxsize=1)
def code_version() -> str:
    """Return the installed version of PDPC, or "unknown" in a source tree that was never installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("pdpc")
    except PackageNotFoundError:
        return "unknown"


@contextmanager
def create(
    folder: Path, kind: str, *, config: Mapping[str, Any], inputs: Mapping[str, str] | None = None
) -> Iterator[Draft]:
    """Write an artifact: yield a temporary sibling of `folder`; rename it to `folder` when the block succeeds.

    An exception removes the temporary folder; a killed process leaves one named `.<name>.tmp-*`, which the next
    `create` of the same folder removes once its writer is gone. Raises ArtifactError when `folder` already exists.
    """
    folder = Path(folder)
    if folder.exists():
        raise ArtifactError(f"{folder} already exists: choose another output or remove it")
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(folder)
    temporary = folder.parent / f".{folder.name}.tmp-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    temporary.mkdir()
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
    fields = _as_json(asdict(manifest))
    manifest = replace(manifest, checksum=checksum_of(fields))
    write_text(
        folder / MANIFEST, json.dumps({**fields, "checksum": manifest.checksum}, indent=1, sort_keys=True) + "\n"
    )
    return manifest


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


def open_manifest(folder: Path, kind: str) -> Manifest:
    """Read an artifact's manifest and check its kind, version and the size of every file (contents: see `verify`).

    Raises ArtifactError naming what is missing, incomplete or foreign, and the fix.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder, kind)
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


def _read_manifest(folder: Path, kind: str) -> Manifest:
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ArtifactError(f"{kind} folder {folder} does not exist: check the path or create it first")
    if not path.is_file():
        raise ArtifactError(f"{folder} has no {MANIFEST}: it is not a complete {kind} artifact")
    if path.is_symlink():
        raise ArtifactError(f"{path} is a symlink: copy the file itself into {folder}")
    with reading(path, f"recreate {folder}"):
        data = json.loads(path.read_text("utf-8"))
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
        return str(json.loads((folder / MANIFEST).read_text("utf-8"))["kind"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{folder} has no readable {MANIFEST} ({error}): it is not an artifact") from error


def reusable(folder: Path, kind: str, *, config: Mapping[str, Any], inputs: Mapping[str, str]) -> bool:
    """Return whether `folder` holds exactly what `config` and `inputs` would produce.

    False: it does not exist. True: it is complete and up to date. Raises ArtifactError when it holds something else,
    naming each key that differs.
    """
    folder = Path(folder)
    if not folder.exists():
        return False
    manifest = open_manifest(folder, kind)
    differences = [
        f"{key}: found {there!r}, requested {asked!r}"
        for old, new in ((manifest.config, _as_json(config)), (manifest.inputs, _as_json(inputs)))
        for key, there, asked in differing(old, new)
    ]
    if differences:
        raise ArtifactError(
            f"{folder} was written with other settings or inputs ({'; '.join(differences)}): "
            "choose another output, or remove the folder to recreate it"
        )
    return True


def differing(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted key, old value, new value) for every leaf where two nested mappings differ."""
    for key in sorted(set(old) | set(new)):
        name, a, b = f"{prefix}{key}", old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from differing(a, b, f"{name}.")
        elif a != b:
            yield name, a, b


def _as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(json.dumps(value))
    return result


def remove_abandoned(folder: Path) -> None:
    """Remove temporary siblings of `folder` whose writing process is gone."""
    for left in folder.parent.glob(f".{folder.name}.tmp-*"):
        writer = left.name.removeprefix(f".{folder.name}.tmp-").split("-")[0]
        if not (writer.isdigit() and process_alive(int(writer))):
            shutil.rmtree(left, ignore_errors=True)


def process_alive(pid: int) -> bool:
    """Return whether a process exists on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically and durably: readers see the old or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            left = memoryview(text.encode())
            while left:
                left = left[os.write(descriptor, left) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Flush a file or a folder to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
