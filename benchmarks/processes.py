"""A side in a process of its own: its result, and the peak resident memory of it and of every process it starts.

A benchmark module has `SIDES`, functions from settings to facts by name. The child is
`python -m benchmarks.processes MODULE SIDE SETTINGS.json RESULT.json`; what it prints goes to a log in the work folder.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

Settings = Mapping[str, Any]
Facts = dict[str, Any]
Side = Callable[[Settings], Facts]

POLL_S = 0.05
LOG_TAIL = 3000


class SideError(RuntimeError):
    """A side's process failed; the message ends with what it printed last."""


def measure(
    module: str, side: str, settings: Settings, work: Path, environment: Mapping[str, str] | None = None
) -> Facts:
    """Run one side of `benchmarks.<module>` in a process of its own; return its facts, with two of its memory in bytes.

    peak_bytes: the process's largest resident memory (VmHWM: file mappings included) or, where more, the most that it
    and the processes below it held at one moment, shared pages counted once (Pss, looked at every POLL_S).
    peak_bound_bytes: its VmHWM and that of every process below it, added up, as if they shared nothing.
    """
    settings_file, result_file, log_file = (work / f"{side}.{name}" for name in ("settings", "result", "log"))
    settings_file.write_text(json.dumps(dict(settings)), "utf-8")
    result_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.processes", module, side, str(settings_file), str(result_file)]
    with open(log_file, "wb") as log:
        child = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
        )
        try:
            together, below_it = _watch(child)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    if child.returncode != 0 or not result_file.is_file():
        tail = log_file.read_text("utf-8", errors="replace")[-LOG_TAIL:]
        hint = "; `make bench-peers` installs what is missing" if "ModuleNotFoundError" in tail else ""
        raise SideError(f"side {side!r} of {module} ended with code {child.returncode}{hint}:\n{tail}")
    facts: Facts = json.loads(result_file.read_text("utf-8"))
    own = int(facts["peak_bytes"])
    return {**facts, "peak_bytes": max(own, together), "peak_bound_bytes": own + below_it}


def _watch(child: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Wait for a process. Return the most that it and those below it held together, and the sum of their peaks."""
    together = 0
    peaks: dict[int, int] = {}
    while child.poll() is None:
        started = below(child.pid)
        for pid in started:
            peaks[pid] = max(peaks.get(pid, 0), peak_bytes(pid))
        if started:  # a process alone knows its own peak
            together = max(together, sum(map(shared_once_bytes, (child.pid, *started))))
        time.sleep(POLL_S)
    return together, sum(peaks.values())


def below(pid: int) -> list[int]:
    """Return the processes that a process started, and theirs, as they are now."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            children = Path(f"/proc/{pid}/task/{task}/children").read_text("ascii").split()
            for child in map(int, children):
                found += [child, *below(child)]
    except OSError:  # it ended while we looked
        pass
    return found


def peak_bytes(pid: int | None = None) -> int:
    """Return the largest resident memory of a process so far (VmHWM), in bytes; 0 when it is gone. None: this one."""
    return _entry(f"/proc/{pid or 'self'}/status", "VmHWM:")


def resident_bytes() -> int:
    """Return this process's resident memory as it is now (VmRSS), in bytes."""
    return _entry("/proc/self/status", "VmRSS:")


def shared_once_bytes(pid: int) -> int:
    """Return a process's part of the memory (Pss: a page that n processes share counts 1/n), in bytes; 0 when gone."""
    return _entry(f"/proc/{pid}/smaps_rollup", "Pss:")


def forget_peak() -> None:
    """Let this process's peak start again from its present memory, where the kernel allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "ascii")


def _entry(file: str, name: str) -> int:
    try:
        lines = Path(file).read_text("ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(name)), 0)


def evict(path: Path) -> None:
    """Drop a file, or every file of a folder, from the page cache (what is not yet on the disk is written first)."""
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def main(arguments: list[str]) -> None:
    """Be the child: run a side and write its facts."""
    module, side, settings_file, result_file = arguments
    sides: Mapping[str, Side] = importlib.import_module(f"benchmarks.{module}").SIDES
    facts = sides[side](json.loads(Path(settings_file).read_text("utf-8")))
    facts.setdefault("peak_bytes", peak_bytes())
    Path(result_file).write_text(json.dumps(facts), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
