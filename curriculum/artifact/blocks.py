"""Arrays on disk with one checksum per block: opening reads no data, and a damaged block is detected when it is read.

`blocks.bin` of an artifact holds one xxh3-64 (little-endian) per block of BLOCK_BYTES, for each array file in turn. The
artifact's manifest holds the checksum of blocks.bin itself.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import xxhash

from curriculum.artifact.files import ArtifactError, FileEntry
from curriculum.artifact.manifest import Manifest
from curriculum.artifact.mapped import OpenFile

BLOCKS = "blocks.bin"
BLOCK_BYTES = 1 << 18
FLUSH_BYTES = 1 << 26
"""Bytes written between two background flushes: the disk is busy while the next bytes are computed."""

Array = npt.NDArray[Any]


def blocks_of(size: int) -> int:
    """Return the number of blocks in a file of `size` bytes."""
    return -(-size // BLOCK_BYTES)


class BlockWriter:
    """Writes one array file; `entry` and `digests` are final once it is closed."""

    def __init__(self, path: Path, dtype: str) -> None:
        self.path = path
        self.dtype = np.dtype(dtype)
        self.digests: list[int] = []
        self._file = open(path, "wb")  # noqa: SIM115 (closed with this writer)
        self._whole = xxhash.xxh3_128()
        self._rest = bytearray()
        self._bytes = 0
        self._pool = ThreadPoolExecutor(1)
        self._flush: Future[None] | None = None
        self._flushed_bytes = 0

    def write(self, values: Array) -> None:
        """Append values, cast to the file's dtype (which must be able to hold them)."""
        data = np.ascontiguousarray(values.astype(self.dtype, copy=False)).reshape(-1).view(np.uint8).data
        self._file.write(data)
        self._whole.update(data)
        self._bytes += len(data)
        self._flush_behind()
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._rest:
            self.digests.append(xxhash.xxh3_64_intdigest(self._rest))
            self._rest.clear()
        self._pool.shutdown()
        self._file.close()
        if self._flush is not None and kind is None:
            self._flush.result()

    def _flush_behind(self) -> None:
        if self._flush is not None and self._flush.done():
            self._flush.result()  # raises the error of a failed flush
            self._flush = None
        if self._flush is None and self._bytes - self._flushed_bytes >= FLUSH_BYTES:
            self._file.flush()
            self._flush = self._pool.submit(_flush, self._file.fileno(), self._flushed_bytes, self._bytes)
            self._flushed_bytes = self._bytes

    @property
    def entry(self) -> FileEntry:
        """Return the file's size and checksum for the manifest."""
        return FileEntry(self._bytes, self._whole.hexdigest())


def _flush(descriptor: int, start: int, stop: int) -> None:
    """Sync a file to disk, and let the OS drop the written pages from its cache."""
    os.fsync(descriptor)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, stop - start, os.POSIX_FADV_DONTNEED)


def write_blocks(folder: Path, writers: Mapping[str, BlockWriter]) -> dict[str, int]:
    """Write blocks.bin for closed writers; return the index of each file's first checksum in it."""
    first, starts = 0, {}
    with open(folder / BLOCKS, "wb") as file:
        for name, writer in writers.items():
            starts[name] = first
            first += len(writer.digests)
            file.write(np.array(writer.digests, dtype="<u8").tobytes())
    return starts


def open_blocks(folder: Path, manifest: Manifest) -> npt.NDArray[np.uint64]:
    """Return an artifact's block checksums. Raises ArtifactError when blocks.bin itself is damaged."""
    data = (folder / BLOCKS).read_bytes()
    if xxhash.xxh3_128_hexdigest(data) != manifest.files[BLOCKS].xxh3_128:
        raise ArtifactError(f"{folder / BLOCKS} does not match its checksum: it is damaged; recreate {folder}")
    return np.frombuffer(data, dtype="<u8")


class BlockArray:
    """An array [n] or [n, width] on disk; `array[i:j]` returns rows, and verifies each block on its first read."""

    def __init__(self, path: Path, dtype: str, rows: int, digests: npt.NDArray[np.uint64], width: int = 0) -> None:
        self._path = path
        self._dtype = np.dtype(dtype)
        self._digests = digests
        self._rows, self._width = rows, width
        self._row_bytes = self._dtype.itemsize * max(1, width)
        size = rows * self._row_bytes
        if path.stat().st_size != size or len(digests) != blocks_of(size):
            raise ArtifactError(
                f"{path} has {path.stat().st_size} bytes and {len(digests)} checksums, expected {size} bytes: "
                f"it is incomplete or belongs to another artifact; recreate {path.parent}"
            )
        self._file = OpenFile(path, size)
        self._verified = np.zeros(len(digests), dtype=np.bool_)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, where: slice) -> Array:
        """Return a copy of rows i to j.

        Raises ArtifactError naming the first damaged block in the range, UnreadableError when the file was truncated.
        """
        rows = range(*where.indices(self._rows))
        if not rows:
            return self._shaped(np.empty(0, dtype=np.uint8))
        lowest, highest = min(rows[0], rows[-1]), max(rows[0], rows[-1])
        start, stop = lowest * self._row_bytes, (highest + 1) * self._row_bytes
        first, last = start // BLOCK_BYTES, blocks_of(stop)
        if self._verified[first:last].all():
            data = self._file.read(start, stop)
        else:
            before = first * BLOCK_BYTES
            data = self._file.read(before, min(last * BLOCK_BYTES, self._file.size))
            self._check(first, last, data)
            data = data[start - before : stop - before]
        return self._shaped(data)[:: rows.step]

    def _shaped(self, data: npt.NDArray[np.uint8]) -> Array:
        return data.view(self._dtype).reshape((-1, self._width) if self._width else (-1,))

    def _check(self, first: int, last: int, data: npt.NDArray[np.uint8]) -> None:
        """Compare blocks with their checksums; `data` holds their bytes."""
        for place, block in enumerate(range(first, last)):
            if not self._verified[block]:
                found = data[place * BLOCK_BYTES : (place + 1) * BLOCK_BYTES]
                if xxhash.xxh3_64_intdigest(found.data) != self._digests[block]:
                    raise ArtifactError(
                        f"{self._path} is damaged between bytes {block * BLOCK_BYTES} and "
                        f"{block * BLOCK_BYTES + len(found)}: its checksum differs; recreate {self._path.parent}"
                    )
                self._verified[block] = True
