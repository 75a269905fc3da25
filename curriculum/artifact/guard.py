"""What is read of a file that somebody may write to: intact, or an error.

A file is compared with its stamp (inode, size, modification and change time) before and after every read. Once it
differs, every block that is read is compared with its checksum, and so is what was read since the last look that no
cache can have answered: a network file system answers from its cache for a while (NFS: 3 to 60 s). So a change that
left the bytes alone does no harm, and one that did not is found before its effects are saved (`recheck`).
"""

from __future__ import annotations

import logging
import threading
import time
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import numpy.typing as npt
import xxhash

from curriculum.artifact.files import FileEntry, hash_file
from curriculum.artifact.mapped import OpenFile, Stamp, UnreadableError

log = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 18
REFRESH_S = 30.0
"""A file in use is looked at past all caches this often."""

Digests = npt.NDArray[np.uint64]


def blocks_of(size: int) -> int:
    """Return the number of blocks in a file of `size` bytes."""
    return -(-size // BLOCK_BYTES)


class Guard:
    """What is known of one file: its stamp when it was first opened, and which of its blocks were verified.

    It outlives the open file, so that a file that is closed and opened again is recognised. Without checksums, a file
    that was written to is an error, and a change of its status only (permissions, names) a warning.
    """

    def __init__(self, path: Path, size: int, digests: Digests | None) -> None:
        self._path, self._size, self._digests = path, size, digests
        self._stamp: Stamp | None = None
        self._change: str | None = None
        self._verified = np.zeros(0 if digests is None else len(digests), dtype=np.bool_)
        self._read = np.zeros(len(self._verified), dtype=np.bool_)
        """Blocks that were read since the last look past all caches, and not compared after the reading."""
        self._refreshed_s = time.monotonic()

    @property
    def in_use(self) -> bool:
        """Was the file ever opened?"""
        return self._stamp is not None

    def intact(self, file: OpenFile) -> bool:
        """Return whether the file is as it was first opened. If not, read it with `verified` only.

        Raises UnreadableError if it was truncated, or written to and what was read of it is not what it was.
        """
        if self._change is not None:
            return False
        if self._stamp is None:
            self._stamp = file.stamp()
        if time.monotonic() - self._refreshed_s >= REFRESH_S:
            self.recheck(file)
        elif not file.unchanged(self._stamp):
            self._changed(file.stamp())
            self._check_read(file)
        return self._change is None

    def recheck(self, file: OpenFile) -> None:
        """Look at the file past all caches. Raises UnreadableError unless what was read of it before was intact."""
        if self._stamp is None:
            return
        if self._change is None:
            before, self._read = self._read, np.zeros_like(self._read)  # what is read from here on is for the next time
            self._refreshed_s = time.monotonic()
            stamp = file.refreshed()
            if stamp == self._stamp:
                return
            self._read |= before
            self._changed(stamp)
        self._check_read(file)

    def was_verified(self, first: int, last: int) -> bool:
        """Return whether the blocks first .. last - 1 need no comparison now.

        They were verified and the file has not changed since, as far as is known; or they have no checksums.
        """
        if self._digests is None:
            return True
        if self._change is not None:
            return False
        return bool(self._verified[first] if last == first + 1 else self._verified[first:last].all())

    def note(self, first: int, last: int) -> None:
        """Note that the blocks first .. last - 1 were just read, some of them without a comparison."""
        if self._change is None:
            self._read[first:last] = True

    def sample(self, file: OpenFile, blocks_N: npt.NDArray[np.int64]) -> None:
        """Note that these blocks were read, and verify one that never was: for reads too many to verify each."""
        if self._digests is None:
            return
        self._read[blocks_N] = True
        fresh = blocks_N[~self._verified[blocks_N]]
        if len(fresh):
            at = int(fresh[len(fresh) // 2]) * BLOCK_BYTES
            self.verified(file, at, at + 1)

    def verified(self, file: OpenFile, start: int, stop: int) -> npt.NDArray[np.uint8]:
        """Return a copy of the bytes [start, stop) after comparing their blocks with their checksums.

        Blocks that were verified before are compared again only if the file has changed. Raises UnreadableError.
        """
        if self._digests is None or stop <= start:
            return file.read(start, stop)
        first, last = start // BLOCK_BYTES, blocks_of(stop)
        before = first * BLOCK_BYTES
        data = file.read(before, min(last * BLOCK_BYTES, self._size))
        for block in range(first, last):
            if self._change is not None or not self._verified[block]:
                place = block * BLOCK_BYTES - before
                self._compare(block, data[place : place + BLOCK_BYTES])
        return data[start - before : stop - before]

    def _compare(self, block: int, data: npt.NDArray[np.uint8]) -> None:
        """Raise UnreadableError if the bytes of a block do not match its checksum."""
        assert self._digests is not None
        if xxhash.xxh3_64_intdigest(data.data) != self._digests[block]:
            start = block * BLOCK_BYTES
            change = f"; while it was in use, {self._change}" if self._change else ""
            raise UnreadableError(
                f"{self._path} is damaged between bytes {start} and {start + len(data)}: its checksum differs{change}: "
                "restore the file, or write its artifact again, then run the same command again"
            )
        self._verified[block] = True

    def _check_read(self, file: OpenFile) -> None:
        """Verify what was read without a comparison since the last look past all caches."""
        for block in np.flatnonzero(self._read).tolist():
            self.verified(file, block * BLOCK_BYTES, block * BLOCK_BYTES + 1)
            self._read[block] = False

    def _changed(self, stamp: Stamp) -> None:
        """React to a stamp that differs from the first one. Raises UnreadableError if there are no checksums."""
        assert self._stamp is not None
        change = self._stamp.difference(stamp)
        if self._digests is None:
            if stamp[:-1] != self._stamp[:-1]:
                raise UnreadableError(
                    f"{self._path} changed while it was in use: {change}; it has no checksums of blocks to tell what "
                    "is still intact: restore the file and run the same command again"
                )
            log.warning(
                "%s changed while it was in use: %s; it has no checksums of blocks to tell whether it is still intact",
                *(self._path, change),
            )
            self._stamp = stamp
            return
        log.warning(
            "%s changed while it was in use: %s; from now on all that is read of it is compared with its checksums",
            *(self._path, change),
        )
        self._change = change


class WholeFile:
    """A file that is read from front to back, once or several times.

    Its checksum is computed once, in the background of the first reading; its stamp is compared after each.
    """

    def __init__(self, path: Path, entry: FileEntry) -> None:
        self._path, self._entry = path, entry
        self._stamp = Stamp.of(path)
        self._found: Future[FileEntry] | None = None

    def begin(self) -> None:
        """Call this before a reading."""
        if self._found is None:
            self._found = Future()
            threading.Thread(target=self._hash, args=(self._found,), name="checksum", daemon=True).start()

    def check(self) -> None:
        """Raise UnreadableError unless what was read before this call was intact. Waits for the checksum."""
        if self._found is None:
            return
        if self._found.result() != self._entry:
            raise UnreadableError(
                f"{self._path} does not match its checksum: it is damaged; restore it, or write its artifact again"
            )
        now = Stamp.of(self._path)
        if now != self._stamp and (now[:-1] != self._stamp[:-1] or hash_file(self._path) != self._entry):
            raise UnreadableError(
                f"{self._path} changed while it was being read: {self._stamp.difference(now)}; restore it, or write "
                "its artifact again, then run the same command again"
            )
        self._stamp = now

    def _hash(self, found: Future[FileEntry]) -> None:
        try:
            found.set_result(hash_file(self._path))
        except Exception as error:  # raised where the result is needed
            found.set_exception(error)
