"""Asynchronous reads and writes of tensors in files on a fast local disk, in place of DeepSpeed's.

DeepSpeed 0.19.8 would compile an extension (`async_io`: libaio, a C++ compiler, a minute) that ignores the kernel's
return values: on a full disk, training continues with numbers that were never written. These handles have the same
methods, need no compiler, reserve a file's space before they write to it, and raise the disk's errors.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from train.engine.stand_ins import replaced

DIRECT = getattr(os, "O_DIRECT", 0)
"""Bypasses the page cache: a step moves every byte of the state, which would evict everything else."""
SECTOR = 512
"""Bytes to which addresses, offsets and lengths must be aligned for that; a disk that needs more uses the cache."""

_buffers: set[int] = set()
"""Addresses of the buffers allocated here."""


class DiskHandle:
    """Pending reads and writes; `wait` completes them. The methods are those of DeepSpeed's `aio_handle`."""

    def __init__(self, block_size: int = 1 << 20, queue_depth: int = 8, **_: object) -> None:
        self._block_bytes = block_size
        self._workers = ThreadPoolExecutor(queue_depth, thread_name_prefix="disk")
        self._pending: list[tuple[_File, list[Future[None]]]] = []

    def async_pread(self, buffer: Tensor, path: str, offset: int = 0) -> int:
        """Start to fill a tensor from a file, from byte `offset` on. Returns 0, as DeepSpeed expects."""
        return self._begin(buffer, path, offset, writes=False)

    def async_pwrite(self, buffer: Tensor, path: str, offset: int = 0) -> int:
        """Start to write a tensor. Raises OSError when the disk has no space for the file."""
        return self._begin(buffer, path, offset, writes=True)

    def wait(self) -> int:
        """Complete all pending reads and writes; return their number. Raises the first OSError among them."""
        ended, self._pending = self._pending, []
        problem: BaseException | None = None
        for file, blocks in ended:
            for block in blocks:
                error = block.exception()  # waits
                problem = problem or error
            file.close()
        if problem is not None:
            raise problem
        return len(ended)

    def new_cpu_locked_tensor(self, length: int, example: Tensor) -> Tensor:
        """Return an empty vector with the dtype of `example` that can be filled without the page cache."""
        if torch.cuda.is_available():
            return torch.empty(length, dtype=example.dtype, pin_memory=True)
        memory = mmap.mmap(-1, max(1, length * example.element_size()))
        buffer = torch.frombuffer(memory, dtype=example.dtype, count=length) if length else example.new_empty(0)
        _buffers.add(buffer.data_ptr())
        weakref.finalize(memory, _buffers.discard, buffer.data_ptr())
        return buffer

    def free_cpu_locked_tensor(self, _buffer: Tensor) -> bool:
        """Do nothing: the memory is freed with the last tensor that uses it."""
        return True

    def is_pinned(self, tensor: Tensor) -> bool:
        """Return whether a tensor is in memory allocated for these reads and writes."""
        return tensor.is_pinned() or tensor.untyped_storage().data_ptr() in _buffers

    def _begin(self, buffer: Tensor, path: str, offset: int, *, writes: bool) -> int:
        memory = buffer.detach().view(torch.uint8).numpy().data  # raises unless it is on the host
        if writes:
            reserve(path, offset + len(memory))
        file = _File(path, writes, direct=(buffer.data_ptr() | offset | len(memory)) % SECTOR == 0)
        blocks = [
            self._workers.submit(file.move, memory[first : first + self._block_bytes], offset + first)
            for first in range(0, len(memory), self._block_bytes)
        ]
        self._pending.append((file, blocks))
        return 0


class _File:
    """A file open for reading or writing, bypassing the page cache if possible."""

    def __init__(self, path: str, writes: bool, direct: bool) -> None:
        self._path = path
        self._writes = writes
        flags = os.O_WRONLY if writes else os.O_RDONLY
        try:
            self._descriptor = os.open(path, flags | (DIRECT if direct else 0))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._descriptor = os.open(path, flags)

    def move(self, memory: memoryview, offset: int) -> None:
        """Fill, or write, all of `memory`."""
        step = os.pwrite if self._writes else _read
        while memory:
            try:
                moved = step(self._descriptor, memory, offset)
            except OSError as error:
                flags = fcntl.fcntl(self._descriptor, fcntl.F_GETFL)
                if error.errno != errno.EINVAL or not flags & DIRECT:
                    raise OSError(error.errno, error.strerror, self._path) from error
                fcntl.fcntl(self._descriptor, fcntl.F_SETFL, flags & ~DIRECT)
                continue
            if moved == 0:
                raise OSError(errno.EIO, f"the file ends at byte {offset}, but more was written to it", self._path)
            memory, offset = memory[moved:], offset + moved

    def close(self) -> None:
        """Close the file and drop it from the page cache."""
        if not self._writes:
            os.posix_fadvise(self._descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(self._descriptor)


def _read(descriptor: int, memory: memoryview, offset: int) -> int:
    return os.preadv(descriptor, [memory], offset)


def reserve(path: str, size: int, *, zero: bool = False) -> None:
    """Reserve `size` bytes in a file, created if necessary; new bytes, or all if `zero`, read as 0.

    Raises OSError (ENOSPC, with the free space) when the disk is too small: at the start of a run, not in the middle.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        if zero:
            os.ftruncate(descriptor, 0)
        if os.fstat(descriptor).st_size < size:
            os.posix_fallocate(descriptor, 0, size)
    except OSError as error:
        there = os.fstatvfs(descriptor)
        free = there.f_bavail * there.f_frsize
        raise OSError(
            error.errno,
            f"{error.strerror}: {path} needs {size:,} bytes and {free:,} are free: free space at zero.nvme_path, or "
            "use another folder",
        ) from error
    finally:
        os.close(descriptor)


@contextmanager
def own_handles() -> Iterator[None]:
    """Let DeepSpeed objects built inside the block read and write with `DiskHandle`, in the parameters' dtype."""
    from deepspeed.runtime.swap_tensor import partitioned_optimizer_swapper, partitioned_param_swapper
    from deepspeed.runtime.zero.partition_parameters import Init

    with (
        replaced(Init, "_set_dtype", _keep_dtype),
        replaced(partitioned_optimizer_swapper, "AsyncIOBuilder", _Builder),
        replaced(partitioned_param_swapper, "AsyncIOBuilder", _Builder),
    ):
        yield


def _keep_dtype(self: Any, ds_config: Any, dtype: torch.dtype) -> None:
    self.dtype = dtype


class _Builder:
    """Replaces DeepSpeed's builder of `async_io`: there is nothing to build."""

    aio_handle = DiskHandle

    def load(self, verbose: bool = False) -> Any:
        """Return the object that has `aio_handle`."""
        return self
