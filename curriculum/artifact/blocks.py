"""Arrays on disk with a checksum a block: opening reads nothing, and a damaged block is found when it is read.

`blocks.bin` of an artifact holds, for every array file in turn, one xxh3-64 (little-endian) a block of BLOCK_BYTES. The
artifact's manifest vouches for blocks.bin itself.
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

from curriculum.artifact.manifest import ArtifactError, FileEntry, Manifest
from curriculum.artifact.mapped import OpenFile

BLOCKS = "blocks.bin"
BLOCK_BYTES = 1 << 18
FLUSH_BYTES = 1 << 26
"""Written between two flushes in the background: the disk works while the next bytes are made."""

Array = npt.NDArray[Any]


def blocks_of(size: int) -> int:
    """Return how many blocks a file of `size` bytes has."""
    return -(-size // BLOCK_BYTES)


class BlockWriter:
    """Writes one array file; `entry` and `digests` are right once it is closed."""

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
        """Append values, cast to the file's type (which must hold them)."""
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
            self._flush.result()  # raises what the disk said
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
    """Bring a file to the disk, and let the system use the memory of what was written for what comes."""
    os.fsync(descriptor)
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, start, stop - start, os.POSIX_FADV_DONTNEED)


def write_blocks(folder: Path, writers: Mapping[str, BlockWriter]) -> dict[str, int]:
    """Write blocks.bin for closed writers; return at which block of it each file's checksums begin."""
    first, starts = 0, {}
    with open(folder / BLOCKS, "wb") as file:
        for name, writer in writers.items():
            starts[name] = first
            first += len(writer.digests)
            file.write(np.array(writer.digests, dtype="<u8").tobytes())
    return starts


def open_blocks(folder: Path, manifest: Manifest) -> npt.NDArray[np.uint64]:
    """Return the checksums of an artifact's blocks. Raises ArtifactError when they are damaged themselves."""
    data = (folder / BLOCKS).read_bytes()
    if xxhash.xxh3_128_hexdigest(data) != manifest.files[BLOCKS].xxh3_128:
        raise ArtifactError(f"{folder / BLOCKS} does not match its checksum: it is damaged; make {folder} again")
    return np.frombuffer(data, dtype="<u8")


class BlockArray:
    """An array [n] or [n, width] on disk; `array[i:j]` are rows, each block checked when it is first read."""

    def __init__(self, path: Path, dtype: str, rows: int, digests: npt.NDArray[np.uint64], width: int = 0) -> None:
        self._path = path
        self._dtype = np.dtype(dtype)
        self._digests = digests
        self._rows, self._width = rows, width
        self._row_bytes = self._dtype.itemsize * max(1, width)
        size = rows * self._row_bytes
        if path.stat().st_size != size or len(digests) != blocks_of(size):
            raise ArtifactError(
                f"{path} has {path.stat().st_size} bytes and {len(digests)} checksums, {size} bytes were expected: "
                f"it is torn or foreign; make {path.parent} again"
            )
        self._file = OpenFile(path, size)
        self._sound = np.zeros(len(digests), dtype=np.bool_)

    def __len__(self) -> int:
        return self._rows

    def __getitem__(self, where: slice) -> Array:
        """Return rows i to j, a copy.

        Raises ArtifactError naming the first damaged block among them, UnreadableError when the file was cut.
        """
        rows = range(*where.indices(self._rows))
        if not rows:
            return self._shaped(np.empty(0, dtype=np.uint8))
        lowest, highest = min(rows[0], rows[-1]), max(rows[0], rows[-1])
        start, stop = lowest * self._row_bytes, (highest + 1) * self._row_bytes
        first, last = start // BLOCK_BYTES, blocks_of(stop)
        if self._sound[first:last].all():
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
        """Compare blocks, whose bytes are `data`, with their checksums."""
        for place, block in enumerate(range(first, last)):
            if not self._sound[block]:
                found = data[place * BLOCK_BYTES : (place + 1) * BLOCK_BYTES]
                if xxhash.xxh3_64_intdigest(found.data) != self._digests[block]:
                    raise ArtifactError(
                        f"{self._path} is damaged between bytes {block * BLOCK_BYTES} and "
                        f"{block * BLOCK_BYTES + len(found)}: its checksum differs; make {self._path.parent} again"
                    )
                self._sound[block] = True
