"""The roll: what the ranks of this machine tell the process that started them.

A folder, named by PDPC_ROLL, with a file a fact: `00001.pid` when rank 1 has started (touched while it lives and can
run), `00001.code` when it leaves. DeepSpeed's launcher swallows exit codes and passes signals on by ending everything;
with the roll the supervisor (launch/train.py) asks the ranks themselves. Without the variable nothing is written.
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


def leave(code: int) -> NoReturn:
    """End this process now. Gloo's threads may otherwise abort while the interpreter shuts down."""
    report_code(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def pids(folder: Path) -> dict[int, int]:
    """Return the process of every rank that has started, by rank."""
    return _read(folder, "pid")


class Silence:
    """For how long the ranks have not said that they are here, as time was lived by the process that asks.

    A run that was stopped as a whole and goes on is not silent, nor is one whose clock was set.
    """

    def __init__(self, folder: Path, most_s: float) -> None:
        self._folder = folder
        self._most_s = most_s
        """What counts at most between two polls: more has passed when this process itself did not run."""
        self._polled = time.monotonic()
        self._said: dict[int, int] = {}
        self._silent_s: dict[int, float] = {}

    def poll(self) -> dict[int, float]:
        """Return the seconds of silence of every rank that has started, by rank. Call it again and again."""
        now = time.monotonic()
        passed_s = min(now - self._polled, self._most_s)
        self._polled = now
        said = {int(path.stem): path.stat().st_mtime_ns for path in self._folder.glob("*.pid")}
        self._silent_s = {
            rank: self._silent_s[rank] + passed_s if self._said.get(rank) == at else 0.0 for rank, at in said.items()
        }
        self._said = said
        return self._silent_s


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


def silent_ranks(folder: Path) -> list[int]:
    """Return the ranks that started and left without saying with which code."""
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
