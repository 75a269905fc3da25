"""File access: reads whose errors name the file, hashing, atomic writes."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from curriculum.artifact.drafts import draft_of

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a write that finds no space left."""
COPY_BYTES = 8 << 20

LARGEST_TEXT, LARGEST_RECORDS = 1 << 28, 1 << 32
"""Most bytes of a file that is parsed as a whole: of settings and descriptions, and of a run's records."""


class ArtifactError(ValueError):
    """An artifact is missing, incomplete, foreign or stale; the message names the file and the fix."""


@dataclass(frozen=True)
class FileEntry:
    """Size and checksum of one file of an artifact."""

    bytes: int
    xxh3_128: str


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


def differing(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield (dotted key, old value, new value) for every leaf where two nested mappings differ."""
    for key in sorted(set(old) | set(new)):
        name, a, b = f"{prefix}{key}", old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            yield from differing(a, b, f"{name}.")
        elif a != b:
            yield name, a, b


def as_json(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return a mapping as it reads back from JSON: tuples as lists, keys as strings."""
    result: dict[str, Any] = json.loads(json.dumps(value))
    return result


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file that becomes `path` when the block succeeds: readers see the old or the new one, never a part.

    It is written under a name that nobody can guess, in the same folder, and synced. A link at `path` is replaced, not
    followed; so is a file of another user, if the folder permits it. On an error `path` stays as it was.
    """
    temporary = draft_of(path)
    try:
        file = open(temporary, "xb")  # noqa: SIM115 (closed below; "x" creates: it follows no link)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, atomically and durably."""
    with replacing(path) as file:
        file.write(text.encode())


def copy_file(source: Path, path: Path) -> None:
    """Copy a file's contents, atomically and durably."""
    with open(source, "rb") as old, replacing(path) as new:
        shutil.copyfileobj(old, new, COPY_BYTES)


def no_links(name: str, flags: int) -> int:
    """Opener for `open(path, "a", opener=no_links)`: like `open_regular`."""
    return open_regular(Path(name), flags)


def open_regular(path: Path, flags: int, mode: int = 0o666) -> int:
    """Open a file and return its descriptor. Raises OSError for a link, and for a pipe or a device, without waiting."""
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.ELOOP, "is a link, which is not followed: remove it", str(path)) from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def sync(path: Path) -> None:
    """Flush a file or a folder to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_text(path: Path, largest: int = LARGEST_TEXT) -> str:
    """Return a file's text, in UTF-8. Raises ArtifactError like `read_bytes`."""
    return read_bytes(path, largest).decode("utf-8")


def read_bytes(path: Path, largest: int = LARGEST_TEXT) -> bytes:
    """Return a file's contents. Raises ArtifactError for one of more than `largest` bytes: it would fill the memory."""
    data = bytearray()
    with open(path, "rb") as file:
        while len(data) <= largest and (part := file.read(COPY_BYTES)):  # `read` takes the memory that it is asked for
            data += part
    if len(data) > largest:
        size = path.stat().st_size
        raise ArtifactError(f"{path} has {size:,} bytes, more than the {largest:,} that it may have: restore the file")
    return bytes(data)
