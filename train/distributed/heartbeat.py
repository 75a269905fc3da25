"""The heartbeat: what the ranks of this machine report to the process that started them.

PDPC_ROLL names a folder with one file per fact: `00001.pid` once rank 1 has started (touched while it is alive and able
to run), `00001.code` when it exits. DeepSpeed's launcher swallows exit codes, and ends everything to pass on a signal;
with these files the supervisor (launch/train.py) reads them from the ranks. Without the variable nothing is written.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import NoReturn

from train.distributed.exit_codes import (
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

VARIABLE = "PDPC_ROLL"
"""Environment variable with the folder."""
SUPERVISOR = "PDPC_SUPERVISOR_PID"
"""Environment variable with the process that started the ranks: when it is gone, they exit."""
STORE = "PDPC_STORE"
"""Environment variable with the file in which the ranks of one machine meet; its folder is new in every attempt."""

PRIORITY = (PORT_TAKEN, REFUSED, CHANGED, DISK_FULL, UNREADABLE, OUT_OF_MEMORY, GUARD_STOPPED, HUNG, FAILED, *LEFT)
"""If exit codes differ, the run's is the first of these that any rank reported."""


def report_in() -> None:
    """Report that this rank has started, and its process id."""
    _write("pid", os.getpid())


def still_here() -> None:
    """Report that this rank is alive and able to run."""
    if path := _path("pid"):
        try:
            os.utime(path)
        except OSError:
            return  # the supervisor is gone with its folder, which the rank notices elsewhere


def report_code(code: int) -> None:
    """Report the exit code of this rank."""
    _write("code", code)


def leave(code: int) -> NoReturn:
    """Exit this process now. Gloo's threads may otherwise abort while the interpreter shuts down."""
    report_code(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def pids(folder: Path) -> dict[int, int]:
    """Return the process id of every rank that has started, by rank."""
    return _read(folder, "pid")


class Silence:
    """How long the ranks have sent no heartbeat, counting only time in which the polling process itself ran.

    A run that was stopped as a whole and continued is not silent, nor is one whose clock was set.
    """

    def __init__(self, folder: Path, most_s: float) -> None:
        self._folder = folder
        self._most_s = most_s
        """Most time counted between two polls: if more has passed, this process itself did not run."""
        self._polled = time.monotonic()
        self._beats: dict[int, int] = {}
        self._silent_s: dict[int, float] = {}

    def poll(self) -> dict[int, float]:
        """Return the seconds of silence of every rank that has started, by rank. Call it repeatedly."""
        now = time.monotonic()
        passed_s = min(now - self._polled, self._most_s)
        self._polled = now
        beats = {int(path.stem): path.stat().st_mtime_ns for path in self._folder.glob("*.pid")}
        self._silent_s = {
            rank: self._silent_s[rank] + passed_s if self._beats.get(rank) == at else 0.0 for rank, at in beats.items()
        }
        self._beats = beats
        return self._silent_s


def code(folder: Path) -> int | None:
    """Return the exit code of the run from those of its ranks; None if none has started.

    A rank that started and ended without an exit code was killed: it counts as failed.
    """
    left = _read(folder, "code")
    started = _read(folder, "pid")
    if not started and not left:
        return None
    codes = {left.get(rank, FAILED) for rank in {*started, *left}}
    return next((known for known in PRIORITY if known in codes), max(codes - {DONE}, default=DONE))


def silent_ranks(folder: Path) -> list[int]:
    """Return the ranks that started and ended without reporting an exit code."""
    return sorted(set(_read(folder, "pid")) - set(_read(folder, "code")))


def _path(kind: str) -> Path | None:
    folder = os.environ.get(VARIABLE)
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
