"""Chunks: a long job, cut so that finished parts are kept.

A chunk is a range of samples of one slice, or of places of a text. Its result is one file in a folder next to the
artifact being written, in one or more blocks, so that writer and reader hold only one block in memory:

    <header: one line of JSON> <column after column, little-endian> <header> <columns> ...

A header gives the plan and chunk that the block belongs to, its number, whether it is the last, and the xxh3-128 of its
columns. A file is written under a temporary name, flushed and renamed, so it is complete or absent; one that does not
match its checksums counts as absent.
"""

from __future__ import annotations

import json
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import xxhash
from numpy.typing import NDArray

from curriculum.artifact.drafts import remove_abandoned
from curriculum.artifact.files import (
    MISREAD,
    ArtifactError,
    differing,
    fingerprint_of,
    read_text,
    reading,
    replacing,
    sync,
    write_text,
)
from curriculum.artifact.lock import Lock
from curriculum.artifact.outputs import named, others

PLAN, LOCK, SUFFIX = "plan.json", ".lock", ".chunk"
OWN = (PLAN, LOCK, f"*{SUFFIX}*", ".*.tmp-*", "models.json", "tokenizer", "tokenizer.new")
"""Patterns of the files in a folder of chunks; `models.json` and `tokenizer` are written by the jobs."""
TEXT = "text"
MOST_CHUNKS = 10**7
SMALLEST_TOKENS, LARGEST_TOKENS, USUAL_CHUNKS = 1 << 16, 1 << 24, 4096
"""Default tokens per chunk: a 4096th of the total, within these bounds."""
SMALLEST_BYTES, LARGEST_BYTES, USUAL_TEXT_CHUNKS = 1 << 18, 1 << 25, 1024
"""Likewise for the bytes of a text: a 1024th."""

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Chunk:
    """Samples start .. stop - 1 of a slice, or places of a text."""

    slice: str
    """Name of the slice; TEXT for a text."""
    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Name of the chunk's file."""
        return f"{self.slice}.{self.number:07d}{SUFFIX}"


def cut(samples: Mapping[str, int], seq_len: int, batch_size: int, tokens: int | None = None) -> list[Chunk]:
    """Return the chunks of slices, given their samples: about `tokens` tokens each, full batches except the last."""
    if tokens is None:
        tokens = min(max(sum(samples.values()) * seq_len // USUAL_CHUNKS, SMALLEST_TOKENS), LARGEST_TOKENS)
    length = max(1, tokens // (seq_len * batch_size)) * batch_size
    _check_number("chunk_tokens", sum(samples.values()) // length)
    return [
        Chunk(name, number, start, min(start + length, count))
        for name, count in samples.items()
        for number, start in enumerate(range(0, count, length))
    ]


def cut_text(places: int, place_bytes: int, size: int | None = None) -> list[Chunk]:
    """Return the chunks of a text of `places` places with about `place_bytes` bytes each: about `size` bytes each."""
    if size is None:
        size = min(max(places * place_bytes // USUAL_TEXT_CHUNKS, SMALLEST_BYTES), LARGEST_BYTES)
    length = max(1, size // place_bytes)
    _check_number("chunk_bytes", places // length)
    return [
        Chunk(TEXT, number, start, min(start + length, places)) for number, start in enumerate(range(0, places, length))
    ]


def _check_number(key: str, chunks: int) -> None:
    if chunks > MOST_CHUNKS:
        raise ValueError(f"{key} makes {chunks:,} chunks, each a file, more than {MOST_CHUNKS:,}: raise it")


class ChunkFolder:
    """The finished chunks of one plan. `mark` is called at named points of a write, where tests interrupt it."""

    def __init__(self, folder: Path, plan: Mapping[str, Any], mark: Callable[[str], None] = lambda point: None) -> None:
        self.folder = folder
        self.plan = json.loads(json.dumps(plan))
        self.fingerprint = fingerprint_of(self.plan)
        """Fingerprint that every block names: of the plan, and of anything that `add_dependency` added."""
        self._mark = mark

    def add_dependency(self, dependency: str) -> None:
        """Make the chunks depend on something that becomes known only after the plan."""
        self.fingerprint = fingerprint_of([fingerprint_of(self.plan), dependency])

    def begin(self) -> None:
        """Create the folder, or resume in it. Raises ArtifactError, naming the keys, for chunks of another plan."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            return self.check()
        except ArtifactError:
            if self._has_chunks():
                raise
        for path in self.folder.iterdir():  # left by an attempt that finished no chunk
            if path.name not in (LOCK, PLAN):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        write_text(self.folder / PLAN, json.dumps(self.plan, indent=1, sort_keys=True) + "\n")
        sync(self.folder.parent)

    def check(self) -> None:
        """Raise ArtifactError, naming the keys, if the folder belongs to another plan."""
        path = self.folder / PLAN
        try:
            with reading(path, f"remove {self.folder} and start again"):
                there = json.loads(read_text(path))
                changes = [f"{key}: was {old!r}, now {new!r}" for key, old, new in differing(there, self.plan)]
        except OSError as error:
            raise ArtifactError(f"{path} is damaged ({error}): remove {self.folder} and start again") from error
        if changes:
            raise ArtifactError(
                f"{self.folder} holds unfinished work with other settings ({'; '.join(changes[:5])}): resume with the "
                "same settings, or remove that folder to start again"
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the folder for this process. Raises ArtifactError if another process holds it.

        A user error (ValueError) before the first chunk is done leaves no folder. Raises ArtifactError for a folder
        that holds other files: it would be cleared; and for a link, behind which another folder would be.
        """
        if self.folder.is_symlink():
            raise ArtifactError(
                f"{self.folder}, where unfinished work is kept, is a link to {self.folder.resolve()}, and is not "
                "followed: remove it, or choose another output"
            )
        if found := others(self.folder, OWN):
            raise ArtifactError(
                f"{self.folder} contains other files ({named(found)}), and unfinished work is kept in that folder: "
                "move them, or choose another output"
            )
        with Lock(self.folder / LOCK, str(self.folder)):
            try:
                yield
            except ValueError:
                if not self._has_chunks():
                    shutil.rmtree(self.folder, ignore_errors=True)
                raise

    def remove(self) -> None:
        """Remove the folder: its chunks are joined or useless. One with other files is left as it is."""
        if self.folder.is_dir() and not others(self.folder, OWN):
            shutil.rmtree(self.folder, ignore_errors=True)

    def missing(self, chunks: Iterable[Chunk]) -> list[Chunk]:
        """Return the chunks that are not done; a file that is damaged or belongs to another plan is removed."""
        remove_abandoned(self.folder)
        there = {entry.name for entry in os.scandir(self.folder)}
        left = []
        for chunk in chunks:
            if chunk.name in there:
                if self._sound(chunk):
                    continue
                (self.folder / chunk.name).unlink()
            left.append(chunk)
        return left

    def write(self, chunk: Chunk, columns: Columns) -> None:
        """Write a chunk's result in one block, atomically."""
        self.write_blocks(chunk, [columns])

    def write_blocks(self, chunk: Chunk, blocks: Iterable[Columns]) -> None:
        """Write a chunk's result block by block, at least one, atomically."""
        path = self.folder / chunk.name
        self._mark("chunk.before_write")
        with replacing(path) as file:
            for number, (columns, last) in enumerate(_with_last(blocks)):
                self._write_block(file, {"chunk": chunk.name, "block": number, "last": last}, columns)
            self._mark("chunk.before_rename")
        sync(self.folder)
        self._mark("chunk.after_write")

    def _write_block(self, file: BinaryIO, header: dict[str, Any], columns: Columns) -> None:
        parts = [np.ascontiguousarray(column, dtype=column.dtype.newbyteorder("<")) for column in columns.values()]
        digest = xxhash.xxh3_128()
        for part in parts:
            digest.update(part.data)
        described = [[name, part.dtype.str, len(part)] for name, part in zip(columns, parts, strict=True)]
        header = {"plan": self.fingerprint, **header, "columns": described, "xxh3_128": digest.hexdigest()}
        file.write(json.dumps(header).encode() + b"\n")
        self._mark("chunk.half_written")
        for part in parts:
            file.write(part.data)

    def read(self, chunk: Chunk) -> Columns:
        """Return the columns of a one-block chunk. Raises ArtifactError like `blocks`."""
        (columns,) = self.blocks(chunk)
        return columns

    def blocks(self, chunk: Chunk) -> Iterator[Columns]:
        """Yield a chunk's blocks. Raises ArtifactError if it is missing, incomplete or of another plan."""
        path = self.folder / chunk.name
        remedy = "run again to redo it"
        try:
            with open(path, "rb") as file:
                for number in count():
                    header = json.loads(file.readline())
                    described = [(str(name), np.dtype(dtype), int(size)) for name, dtype, size in header["columns"]]
                    body = file.read(sum(dtype.itemsize * size for _, dtype, size in described))
                    expected = (self.fingerprint, chunk.name, number, xxhash.xxh3_128_hexdigest(body))
                    last = bool(header["last"])
                    if tuple(header[key] for key in ("plan", "chunk", "block", "xxh3_128")) != expected or (
                        last and file.read(1)
                    ):
                        raise ArtifactError(f"{path} does not match its checksum, or belongs to another plan: {remedy}")
                    yield _columns(described, body)
                    if last:
                        return
        except ArtifactError:
            raise
        except (OSError, *MISREAD) as error:
            raise ArtifactError(f"{path} cannot be read ({error}): {remedy}") from error

    def note(self, name: str, value: Mapping[str, Any]) -> None:
        """Store a JSON value next to the chunks; every writer writes the same value."""
        write_text(self.folder / f"{name}.json", json.dumps(value, indent=1, sort_keys=True) + "\n")

    def noted(self, name: str) -> dict[str, Any]:
        """Return a stored value. Raises ArtifactError if it is missing."""
        path = self.folder / f"{name}.json"
        try:
            value: dict[str, Any] = json.loads(read_text(path))
            if not isinstance(value, dict):
                raise TypeError(f"a {type(value).__name__}, not an object")
        except (OSError, *MISREAD) as error:
            raise ArtifactError(f"{path} cannot be read ({error}): remove {self.folder} and start again") from error
        return value

    def _has_chunks(self) -> bool:
        return any(entry.name.endswith(SUFFIX) for entry in os.scandir(self.folder))

    def _sound(self, chunk: Chunk) -> bool:
        try:
            deque(self.blocks(chunk), maxlen=0)
        except ArtifactError:
            return False
        return True


def _columns(described: list[tuple[str, np.dtype[Any], int]], body: bytes) -> Columns:
    columns, at = {}, 0
    for name, dtype, size in described:
        columns[name] = np.frombuffer(body, dtype=dtype, count=size, offset=at)
        at += columns[name].nbytes
    return columns


def _with_last(blocks: Iterable[Columns]) -> Iterator[tuple[Columns, bool]]:
    """Yield (block, whether it is the last)."""
    left = iter(blocks)
    block = next(left)
    for following in left:
        yield block, False
        block = following
    yield block, True
