"""Is there room for a checkpoint? Asked before the first byte is written."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

SPARE_BYTES = 1 << 20
"""For the manifest and the folder."""


def free_bytes(folder: Path) -> int:
    """Return the bytes that this user may still write where `folder` lies, or will lie."""
    there = os.statvfs(next(found for found in (folder, *folder.parents) if found.is_dir()))
    return there.f_bavail * there.f_frsize


def check_space(folder: Path, sizes: Sequence[int], free: Sequence[int]) -> None:
    """Raise OSError (ENOSPC) when the files of all ranks, `sizes` bytes each, do not fit.

    `free`: what each rank sees. All ranks write into one folder, so the least counts.
    """
    needed, least = sum(sizes) + SPARE_BYTES, min(free)
    if needed > least:
        raise OSError(
            errno.ENOSPC,
            f"{needed:,} bytes are needed (ranks: {len(sizes)}, the largest {max(sizes):,}) and {least:,} are free "
            f"at {folder.parent}",
        )
