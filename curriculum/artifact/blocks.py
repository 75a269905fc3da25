"""Arrays on disk with one checksum per block: opening reads no data, and a damaged block is detected when it is read.

`blocks.bin` of an artifact holds one xxh3-64 (little-endian) per block of BLOCK_BYTES, for each array file in turn. The
artifact's manifest holds the checksum of blocks.bin itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import xxhash

from curriculum.artifact.create import Draft
from curriculum.artifact.files import ArtifactError, FileEntry
from curriculum.artifact.guard import BLOCK_BYTES, Digests, Guard, blocks_of
from curriculum.artifact.manifest import Manifest
from curriculum.artifact.mapped import OpenFile

BLOCKS = "blocks.bin"
READ_BYTES = 8 << 20
FLUSH_BYTES = 1 << 26
"""Bytes written between two background flushes: the disk is busy while the next bytes are computed."""

Array = npt.NDArray[Any]


class BlockHasher:
    """Size and checksum of a file and of its blocks, from its bytes in order."""

    def __init__(self) -> None:
        self.digests: list[int] = []
        self.bytes = 0
        self._whole = xxhash.xxh3_128()
        self._rest = bytearray()

    def update(self, data: memoryview | bytes) -> None:
        """Add the next bytes."""
        data = memoryview(data)
        self._whole.update(data)
        self.bytes += len(data)
        start = 0
        if self._rest:
            start = min(BLOCK_BYTES - len(self._rest), len(data))
            self._rest += data[:start]
            if len(self._rest) < BLOCK_BYTES:
                return
            self.digests.append(xxhash.xxh3_64_intdigest(self._rest))
            self._rest.clear()
        while len(data) - start >= BLOCK_BYTES:
            self.digests.append(xxhash.xxh3_64_intdigest(data[start : start + BLOCK_BYTES]))
            start += BLOCK_BYTES
        self._rest += data[start:]

    def finish(self) -> None:
        """End the last block."""
        if self._rest:
            self.digests.append(xxhash.xxh3_64_intdigest(self._rest))
            self._rest.clear()

    @property
    def entry(self) -> FileEntry:
        """Return the file's size and checksum for the manifest."""
        return FileEntry(self.bytes, self._whole.hexdigest())


def hash_blocks(path: Path) -> BlockHasher:
    """Read a file once; return its checksums."""
    hasher = BlockHasher()
    with open(path, "rb") as file:
        while data := file.read(READ_BYTES):
            hasher.update(data)
    hasher.finish()
    return hasher


class BlockWriter:
    """Writes one array file; `hashes` are final once it is closed."""

    def __init__(self, path: Path, dtype: str) -> None:
        self.path = path
        self.dtype = np.dtype(dtype)
        self.hashes = BlockHasher()
        self._file = open(path, "xb")  # noqa: SIM115 (closed with this writer)
        self._pool = ThreadPoolExecutor(1)
        self._flush: Future[None] | None = None
        self._flushed_bytes = 0

    def write(self, values: Array) -> None:
        """Append values, cast to the file's dtype (which must be able to hold them)."""
        data = np.ascontiguousarray(values.astype(self.dtype, copy=False)).reshape(-1).view(np.uint8).data
        self._file.write(data)
        self.hashes.update(data)
        self._flush_behind()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hashes.finish()
        self._pool.shutdown()
        self._file.close()
        if self._flush is not None and kind is None:
            self._flush.result()

    def _flush_behind(self) -> None:
        if self._flush is not None and self._flush.done():
            self._flush.result()  # raises the error of a failed flush
            self._flush = None
        if self._flush is None and self.hashes.bytes - self._flushed_bytes >= FLUSH_BYTES:
            self._file.flush()
            self._flush = self._pool.submit(_flush, self._file.fileno(), self._flushed_bytes, self.hashes.bytes)
            self._flushed_bytes = self.hashes.bytes


def _flush(descriptor: int, start: int, stop: int) -> None:
    """Sync a file to disk, and let the OS drop the written pages from its cache."""
    os.fsync(descriptor)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, stop - start, os.POSIX_FADV_DONTNEED)


def write_blocks(folder: Path, digests: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Write blocks.bin from the block checksums of every file; return the index of each file's first one in it."""
    first, starts = 0, {}
    with open(folder / BLOCKS, "xb") as file:
        for name, values in digests.items():
            starts[name] = first
            first += len(values)
            file.write(np.array(values, dtype="<u8").tobytes())
    return starts


def add_blocks(draft: Draft, outside: Mapping[str, BlockHasher] | None = None) -> None:
    """Give a finished draft the block checksums of its files, which are read once, and of files `outside` of it."""
    hashes = {path.name: hash_blocks(path) for path in sorted(draft.path.glob("*.bin"))}
    draft.entries.update({name: found.entry for name, found in hashes.items()})
    every = {**hashes, **(outside or {})}
    draft.facts["blocks"] = write_blocks(draft.path, {name: found.digests for name, found in every.items()})


class Blocks:
    """The block checksums of an artifact's files."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        """Raises ArtifactError when blocks.bin itself is damaged."""
        self._folder = folder
        self._starts: Mapping[str, int] = manifest.facts.get("blocks", {})
        self._digests = np.zeros(0, dtype="<u8")
        if BLOCKS in manifest.files:
            data = (folder / BLOCKS).read_bytes()
            if xxhash.xxh3_128_hexdigest(data) != manifest.files[BLOCKS].xxh3_128:
                raise ArtifactError(f"{folder / BLOCKS} does not match its checksum: it is damaged; recreate {folder}")
            self._digests = np.frombuffer(data, dtype="<u8")

    def __len__(self) -> int:
        return len(self._digests)

    def of(self, name: str, size: int) -> Digests | None:
        """Return the checksums of a file of `size` bytes; None if an earlier version wrote it without them.

        Raises ArtifactError if there are not as many as it has blocks.
        """
        if name not in self._starts:
            return None
        first = self._starts[name]
        digests = self._digests[first : first + blocks_of(size)]
        if len(digests) != blocks_of(size):
            raise ArtifactError(
                f"{self._folder / BLOCKS} has {len(digests)} checksums of {name}, which has {blocks_of(size)} blocks: "
                f"it belongs to another artifact; recreate {self._folder}"
            )
        return digests


class BlockArray:
    """An array [n] or [n, width] on disk; `array[i:j]` returns rows, and verifies each block on its first read.

    Once somebody writes to the file it verifies every block on every read (curriculum/artifact/guard.py).
    """

    def __init__(self, path: Path, dtype: str, rows: int, digests: Digests | None, width: int = 0) -> None:
        """Without `digests`, a file that was written to while it was in use is an error."""
        self._dtype = np.dtype(dtype)
        self._rows, self._width = rows, width
        self._row_bytes = self._dtype.itemsize * max(1, width)
        size = rows * self._row_bytes
        if path.stat().st_size != size:
            raise ArtifactError(
                f"{path} has {path.stat().st_size} bytes instead of {size}: it is incomplete or belongs to another "
                f"artifact; recreate {path.parent}"
            )
        self._file = OpenFile(path, size)
        self._guard = Guard(path, size, digests)
        self._guard.intact(self._file)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, where: slice) -> Array:
        """Return a copy of rows i to j.

        Raises UnreadableError when the file was truncated, or naming the first damaged block in the range.
        """
        rows = range(*where.indices(self._rows))
        if not rows:
            return self._shaped(np.empty(0, dtype=np.uint8))
        lowest, highest = min(rows[0], rows[-1]), max(rows[0], rows[-1])
        return self._shaped(self._read(lowest * self._row_bytes, (highest + 1) * self._row_bytes))[:: rows.step]

    def recheck(self) -> None:
        """Raise UnreadableError unless all that was read before this call was intact."""
        self._guard.recheck(self._file)

    def _read(self, start: int, stop: int) -> npt.NDArray[np.uint8]:
        first, last = start // BLOCK_BYTES, blocks_of(stop)
        plain = self._guard.was_verified(first, last)
        data = self._file.read(start, stop) if plain else self._guard.verified(self._file, start, stop)
        self._guard.note(first, last)
        return data if self._guard.intact(self._file) else self._guard.verified(self._file, start, stop)

    def _shaped(self, data: npt.NDArray[np.uint8]) -> Array:
        return data.view(self._dtype).reshape((-1, self._width) if self._width else (-1,))
