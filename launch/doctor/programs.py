"""Other programs (nvidia-smi, ssh): run within a time limit, with what they say instead of an exception's text."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

TIMED_OUT = 124
"""Exit code of a program that was ended after its time limit, as of timeout(1)."""


@dataclass(frozen=True)
class Said:
    """What a program printed, and its exit code."""

    code: int
    out: str
    errors: str

    @property
    def last(self) -> str:
        """The last line of its errors, or else of its output."""
        lines = [one.strip() for text in (self.errors, self.out) for one in text.splitlines() if one.strip()]
        errors = [one.strip() for one in self.errors.splitlines() if one.strip()]
        return (errors or lines or ["it said nothing"])[-1]


def installed(name: str) -> bool:
    """Return whether a program is on PATH."""
    return shutil.which(name) is not None


def said(command: Sequence[str], limit_s: float, environment: Mapping[str, str] | None = None) -> Said:
    """Run a program without input and return what it said; end it, and what it started, after `limit_s` seconds."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        out, errors = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        _kill(process.pid)
        out, errors = process.communicate()
        return Said(TIMED_OUT, out, f"{errors}\n{command[0]} did not answer within {limit_s:g} s")
    except BaseException:
        _kill(process.pid)
        process.wait()
        raise
    return Said(process.returncode, out, errors)


def _kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
