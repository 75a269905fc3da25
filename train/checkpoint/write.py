"""Write a rank's file at disk speed, hashed and checked on the way, without a copy of the state.

There are a few buffers of some MiB: while some are being written, another is filled from the engine's tensors, checked
for non-finite values, and hashed. Writes bypass the page cache (O_DIRECT) if the file system supports it: that is
faster, and the token files read by training stay cached.
"""

from __future__ import annotations

import errno
import fcntl
import math
import mmap
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
import xxhash
from torch import Tensor

from curriculum.artifact.files import FileEntry
from train.checkpoint.layout import BLOCK, WORD, kinds_of
from train.distributed.exit_codes import GUARD_STOPPED
from train.engine import Fragment
from train.faults import fault

CHUNK_BYTES = 8 << 20
"""Size of a buffer."""
BUFFERS = 4
"""Enough to keep the disk busy while this process waits for CPU time on a loaded machine."""
DIRECT = getattr(os, "O_DIRECT", 0)


class NotFiniteError(RuntimeError):
    """The state to be saved contains a non-finite value: such a checkpoint is never published."""

    exit_code = GUARD_STOPPED


def write_shard(path: Path, header: bytes, size: int, fragments: Iterable[Fragment]) -> FileEntry:
    """Write and sync a rank's file of `size` bytes; return its size and checksum.

    Raises OSError if writing fails, and NotFiniteError naming the tensor if a value is not finite.
    """
    half = -(-size // 2 // BLOCK) * BLOCK
    with ShardStream(path, max(BLOCK, min(CHUNK_BYTES, half)), half) as stream:
        stream.put_bytes(header)
        for fragment in fragments:
            for kind in kinds_of(fragment):
                stream.put(f"{fragment.name}/{kind}", fragment.tensors[kind].detach().view(-1))
        entry = stream.finish()
    assert entry.bytes == size, f"{path} has {entry.bytes} bytes instead of {size}"
    return entry


class ShardStream:
    """A file that is hashed while it is written. Every `put` ends at a multiple of four bytes."""

    def __init__(self, path: Path, chunk_bytes: int, half: int) -> None:
        self._file = _DirectFile(path)
        self._buffers = [mmap.mmap(-1, chunk_bytes) for _ in range(BUFFERS)]  # page-aligned, as O_DIRECT requires
        self._words = [torch.frombuffer(buffer, dtype=torch.float32) for buffer in self._buffers]
        self._chunk_bytes = chunk_bytes
        self._half = half
        self._turn = 0
        self._filled = 0
        self._sent = 0
        self._digest = xxhash.xxh3_128()
        self._writer = ThreadPoolExecutor(1)
        self._pending: list[Future[None] | None] = [None] * BUFFERS

    def put_bytes(self, data: bytes) -> None:
        """Append bytes."""
        start = 0
        while start < len(data):
            taken = min(len(data) - start, self._chunk_bytes - self._filled)
            self._buffers[self._turn][self._filled : self._filled + taken] = data[start : start + taken]
            self._took(taken)
            start += taken

    def put(self, name: str, values_N: Tensor) -> None:
        """Append a vector as float32, from any device. Raises NotFiniteError if it contains inf or nan."""
        start = 0
        while start < len(values_N):
            first = self._filled // WORD
            taken = min(len(values_N) - start, self._chunk_bytes // WORD - first)
            target = self._words[self._turn][first : first + taken]
            target.copy_(values_N[start : start + taken])
            low, high = torch.aminmax(target)  # one pass, and nan propagates
            if not (math.isfinite(low) and math.isfinite(high)):
                at = start + int(torch.nonzero(~torch.isfinite(target))[0])
                raise NotFiniteError(f"{name} is {float(values_N[at])} at element {at} of this rank's part")
            self._took(taken * WORD)
            start += taken

    def _took(self, taken: int) -> None:
        self._filled += taken
        if self._filled == self._chunk_bytes:
            self._send()

    def _send(self) -> None:
        """Hash the buffer and submit it for writing; switch to the next one once it is free."""
        chunk = memoryview(self._buffers[self._turn])[: self._filled]
        self._digest.update(chunk)
        whole = -(-self._filled // BLOCK) * BLOCK  # finish() truncates the padding of the last block
        chunk = memoryview(self._buffers[self._turn])[:whole]
        self._pending[self._turn] = self._writer.submit(self._file.write, chunk, self._sent)
        before, self._sent = self._sent, self._sent + self._filled
        if before < self._half <= self._sent:
            self._wait_for_all()
            fault("checkpoint.in_shard")
        self._turn, self._filled = (self._turn + 1) % BUFFERS, 0
        self._wait(self._turn)

    def _wait(self, turn: int) -> None:
        """Wait until a buffer is written."""
        pending, self._pending[turn] = self._pending[turn], None
        if pending is not None:
            pending.result()  # raises the write error

    def _wait_for_all(self) -> None:
        for turn in range(BUFFERS):
            self._wait(turn)

    def finish(self) -> FileEntry:
        """Write the rest and sync; return size and checksum."""
        if self._filled:
            self._send()
        self._wait_for_all()
        fault("checkpoint.after_shard")
        self._file.sync(self._sent)
        fault("checkpoint.after_sync")
        return FileEntry(self._sent, self._digest.hexdigest())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.shutdown()
        self._file.close()


class _DirectFile:
    """A new file, written with O_DIRECT if the file system supports it, else through the page cache."""

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            self._descriptor = os.open(path, flags | DIRECT, 0o644)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            path.unlink(missing_ok=True)
            self._descriptor = os.open(path, flags, 0o644)

    def write(self, chunk: memoryview, offset: int) -> None:
        """Write a whole chunk at `offset`."""
        while chunk:
            try:
                written = os.pwrite(self._descriptor, chunk, offset)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._through_the_cache():
                    raise
                continue
            if written < len(chunk):  # short write, e.g. disk full: the next call raises, and may be unaligned
                self._through_the_cache()
            chunk, offset = chunk[written:], offset + written

    def _through_the_cache(self) -> bool:
        """Switch O_DIRECT off; return whether it was on."""
        flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
        fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~DIRECT)
        return bool(flags & DIRECT)

    def sync(self, size: int) -> None:
        """Truncate the file to its size and sync it to disk."""
        os.ftruncate(self._descriptor, size)
        os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
