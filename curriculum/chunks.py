"""Chunks: a long piece of work, cut so that what is done stays done.

A chunk is a run of samples of one slice. Its columns are one file in a folder beside the artifact to be made:

    <header: one line of JSON> <column after column, little-endian>

The header says which plan the chunk belongs to and the xxh3-128 of what follows. A file is written beside its place,
flushed and renamed, so it is whole or not there; one that does not match its checksum counts as not there.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from curriculum.artifact import ArtifactError, differing, fingerprint_of, sync, write_text

PLAN, LOCK, SUFFIX = "plan.json", ".lock", ".chunk"
SMALLEST_TOKENS, LARGEST_TOKENS, USUAL_CHUNKS = 1 << 16, 1 << 24, 4096
"""A chunk's tokens where nothing else is said: a 4096th of all, within these bounds."""

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Chunk:
    """Samples start .. stop - 1 of a slice."""

    slice: str
    number: int
    start: int
    stop: int

    @property
    def name(self) -> str:
        """Name of its file."""
        return f"{self.slice}.{self.number:07d}{SUFFIX}"


def cut(samples: Mapping[str, int], seq_len: int, batch_size: int, tokens: int | None = None) -> list[Chunk]:
    """Return the chunks of slices with so many samples: about `tokens` tokens each, whole batches but for the last."""
    if tokens is None:
        tokens = min(max(sum(samples.values()) * seq_len // USUAL_CHUNKS, SMALLEST_TOKENS), LARGEST_TOKENS)
    length = max(1, tokens // (seq_len * batch_size)) * batch_size
    return [
        Chunk(name, number, start, min(start + length, count))
        for name, count in samples.items()
        for number, start in enumerate(range(0, count, length))
    ]


class ChunkFolder:
    """The chunks of one plan that are done. `mark` is called at named points of a write: tests stop it there."""

    def __init__(self, folder: Path, plan: Mapping[str, Any], mark: Callable[[str], None] = lambda point: None) -> None:
        self.folder = folder
        self.plan = json.loads(json.dumps(plan))
        self.fingerprint = fingerprint_of(self.plan)
        self._mark = mark

    def begin(self) -> None:
        """Make the folder, or go on with it. Raises ArtifactError, naming the keys, where it has another plan."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / PLAN
        if not path.is_file():
            write_text(path, json.dumps(self.plan, indent=1, sort_keys=True) + "\n")
            sync(self.folder.parent)
            return
        try:
            there = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise ArtifactError(f"{path} is damaged ({error}): remove {self.folder} and start again") from error
        changes = [f"{key}: {old!r} there, {new!r} now" for key, old, new in differing(there, self.plan)]
        if changes:
            raise ArtifactError(
                f"{self.folder} holds the beginning of other work ({'; '.join(changes[:5])}): go on with the same "
                "settings, or remove that folder to start again"
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder alone, by a lock that dies with the process. Raises ArtifactError when another holds it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / LOCK, "a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ArtifactError(
                    f"another process is writing {self.folder}: wait for it, or choose another output"
                ) from error
            yield

    def missing(self, chunks: Iterable[Chunk]) -> list[Chunk]:
        """Return the chunks that are not done; a file that is damaged, or of another plan, is removed."""
        there = {entry.name for entry in os.scandir(self.folder)}
        for name in there:  # left by writers that were killed; one that still writes fails, and is done again
            if ".tmp-" in name:
                (self.folder / name).unlink(missing_ok=True)
        left = []
        for chunk in chunks:
            if chunk.name in there:
                if self._sound(chunk):
                    continue
                (self.folder / chunk.name).unlink()
            left.append(chunk)
        return left

    def write(self, chunk: Chunk, columns: Columns) -> None:
        """Write what became of a chunk, whole or not at all."""
        parts = [np.ascontiguousarray(column, dtype=column.dtype.newbyteorder("<")) for column in columns.values()]
        digest = xxhash.xxh3_128()
        for part in parts:
            digest.update(part.data)
        described = [[name, part.dtype.str, len(part)] for name, part in zip(columns, parts, strict=True)]
        header = {"plan": self.fingerprint, "chunk": chunk.name, "columns": described, "xxh3_128": digest.hexdigest()}
        path = self.folder / chunk.name
        temporary = path.with_name(f"{path.name}.tmp-{socket.gethostname()}-{os.getpid()}")
        self._mark("score.before_write")
        with open(temporary, "wb") as file:
            file.write(json.dumps(header).encode() + b"\n")
            self._mark("score.half_written")
            for part in parts:
                file.write(part.data)
            file.flush()
            os.fsync(file.fileno())
        self._mark("score.before_rename")
        os.replace(temporary, path)
        sync(self.folder)
        self._mark("score.after_chunk")

    def read(self, chunk: Chunk) -> Columns:
        """Return a chunk's columns. Raises ArtifactError when it is not there, not whole or of another plan."""
        path = self.folder / chunk.name
        mend = "run again to do it again"
        try:
            head, _, body = path.read_bytes().partition(b"\n")
            header = json.loads(head)
            expected = (self.fingerprint, chunk.name, xxhash.xxh3_128_hexdigest(body))
            if (header["plan"], header["chunk"], header["xxh3_128"]) != expected:
                raise ArtifactError(f"{path} does not match its checksum, or belongs to other work: {mend}")
            columns, at = {}, 0
            for name, dtype, count in header["columns"]:
                columns[str(name)] = np.frombuffer(body, dtype=np.dtype(dtype), count=int(count), offset=at)
                at += columns[str(name)].nbytes
        except ArtifactError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{path} cannot be read ({error}): {mend}") from error
        return columns

    def note(self, name: str, value: Mapping[str, Any]) -> None:
        """Keep a JSON value beside the chunks; whoever writes it last writes the same."""
        write_text(self.folder / f"{name}.json", json.dumps(value, indent=1, sort_keys=True) + "\n")

    def noted(self, name: str) -> dict[str, Any]:
        """Return what was noted. Raises ArtifactError when it is not there."""
        path = self.folder / f"{name}.json"
        try:
            value: dict[str, Any] = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise ArtifactError(f"{path} cannot be read ({error}): remove {self.folder} and start again") from error
        return value

    def _sound(self, chunk: Chunk) -> bool:
        try:
            self.read(chunk)
        except ArtifactError:
            return False
        return True
