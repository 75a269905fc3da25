"""Check free disk space for a checkpoint before the first byte is written."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

SPARE_BYTES = 1 << 20
"""For the manifest and the folder."""


def free_bytes(folder: Path) -> int:
    """Return the bytes that this user may still write to the file system of `folder`, which need not exist yet."""
    there = os.statvfs(next(found for found in (folder, *folder.parents) if found.is_dir()))
    return there.f_bavail * there.f_frsize


def check_space(folder: Path, sizes: Sequence[int], free: Sequence[int]) -> None:
    """Raise OSError (ENOSPC) if the files of all ranks, `sizes` bytes each, do not fit.

    `free`: free bytes as seen by each rank. All ranks write to one folder, so the minimum counts.
    """
    needed, least = sum(sizes) + SPARE_BYTES, min(free)
    if needed > least:
        raise OSError(
            errno.ENOSPC,
            f"{needed:,} bytes are needed (ranks: {len(sizes)}, largest file {max(sizes):,}), but only {least:,} are "
            f"free at {folder.parent}",
        )
