"""The roll: what the ranks of this machine tell the process that started them.

A folder, named by PDPC_ROLL, with a file a fact: `00001.pid` when rank 1 has started (touched while it lives and can
run), `00001.code` when it leaves. DeepSpeed's launcher swallows exit codes and passes signals on by ending everything;
with the roll the supervisor (launch/start.py) asks the ranks themselves. Without the variable nothing is written.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from train.exit_codes import (
    CHANGED,
    DISK_FULL,
    DONE,
    FAILED,
    GUARD_STOPPED,
    HUNG,
    LEFT,
    OUT_OF_MEMORY,
    PORT_TAKEN,
    REFUSED,
    UNREADABLE,
)

ROLL = "PDPC_ROLL"
"""Environment variable with the folder."""

TELLING = (PORT_TAKEN, REFUSED, CHANGED, DISK_FULL, UNREADABLE, OUT_OF_MEMORY, GUARD_STOPPED, HUNG, FAILED, *LEFT)
"""Which code speaks for a run whose ranks differ: the first of these that a rank left with."""


def report_in() -> None:
    """Say that this rank has started, and by which process."""
    _write("pid", os.getpid())


def still_here() -> None:
    """Say that this rank lives and can run."""
    if path := _path("pid"):
        try:
            os.utime(path)
        except OSError:
            return  # the supervisor is gone with its folder; the rank will hear of that elsewhere


def report_code(code: int) -> None:
    """Say with which code this rank leaves."""
    _write("code", code)


def pids(folder: Path) -> dict[int, int]:
    """Return the process of every rank that has started, by rank."""
    return _read(folder, "pid")


def silent_s(folder: Path, rank: int) -> float:
    """Return the seconds since a rank last said that it is here; 0 for one that never did."""
    try:
        return max(0.0, time.time() - (folder / f"{rank:05d}.pid").stat().st_mtime)
    except OSError:
        return 0.0


def code(folder: Path) -> int | None:
    """Return the exit code that speaks for all ranks; None when none has started.

    A rank that started and left without a word was killed: it counts as failed.
    """
    left = _read(folder, "code")
    started = _read(folder, "pid")
    if not started and not left:
        return None
    codes = {left.get(rank, FAILED) for rank in {*started, *left}}
    return next((known for known in TELLING if known in codes), max(codes - {DONE}, default=DONE))


def _path(kind: str) -> Path | None:
    folder = os.environ.get(ROLL)
    return Path(folder) / f"{int(os.environ.get('RANK', '0')):05d}.{kind}" if folder else None


def _write(kind: str, value: int) -> None:
    path = _path(kind)
    if path is None:
        return
    try:
        path.with_suffix(f".{kind}_new").write_text(f"{value}\n")
        os.replace(path.with_suffix(f".{kind}_new"), path)
    except OSError:
        return  # a full or vanished temporary folder must not end a run


def _read(folder: Path, kind: str) -> dict[int, int]:
    return {int(path.stem): int(path.read_text()) for path in folder.glob(f"*.{kind}")}
