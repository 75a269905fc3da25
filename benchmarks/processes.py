"""Run a side in a separate process; return its result, and the peak resident memory of it and its descendants.

A benchmark module has `SIDES`, functions from settings to facts by name. The child is
`python -m benchmarks.processes MODULE SIDE SETTINGS.json RESULT.json`; its output goes to a log in the work folder.
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
PLACE = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables of a rank that a measured process does not inherit: it would join a group at a port that is taken."""


class SideError(RuntimeError):
    """A side's process failed; the message ends with the tail of its output."""


def measure(
    module: str, side: str, settings: Settings, work: Path, environment: Mapping[str, str] | None = None
) -> Facts:
    """Run one side of `benchmarks.<module>` in a separate process; return its facts, with two memory figures in bytes.

    peak_bytes: the peak resident memory of the process (VmHWM, including file mappings) or, if larger, the most that it
    and its descendants held at one moment, with shared pages counted once (Pss, polled every POLL_S).
    peak_bound_bytes: the sum of the VmHWM of the process and of all its descendants, as if they shared nothing.
    """
    settings_file, result_file, log_file = (work / f"{side}.{name}" for name in ("settings", "result", "log"))
    settings_file.write_text(json.dumps(dict(settings)), "utf-8")
    result_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.processes", module, side, str(settings_file), str(result_file)]
    inherited = {name: value for name, value in os.environ.items() if name not in PLACE}
    with open(log_file, "wb") as log:
        child = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**inherited, **(environment or {})},
        )
        try:
            together, descendants = _watch(child)
        finally:
            if child.poll() is None:
                child.kill()
                child.wait()
    if child.returncode != 0 or not result_file.is_file():
        tail = log_file.read_text("utf-8", errors="replace")[-LOG_TAIL:]
        hint = "; `make bench-peers` installs missing peers" if "ModuleNotFoundError" in tail else ""
        raise SideError(f"side {side!r} of {module} ended with code {child.returncode}{hint}:\n{tail}")
    facts: Facts = json.loads(result_file.read_text("utf-8"))
    own = int(facts["peak_bytes"])
    return {**facts, "peak_bytes": max(own, together), "peak_bound_bytes": own + descendants}


def _watch(child: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Wait for a process; return the most that it and its descendants held together, and the sum of their peaks."""
    together = 0
    peaks: dict[int, int] = {}
    while child.poll() is None:
        started = below(child.pid)
        for pid in started:
            peaks[pid] = max(peaks.get(pid, 0), peak_bytes(pid))
        if started:  # without descendants, the process reports its own peak
            together = max(together, sum(map(shared_once_bytes, (child.pid, *started))))
        time.sleep(POLL_S)
    return together, sum(peaks.values())


def below(pid: int) -> list[int]:
    """Return the current descendants of a process."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            children = Path(f"/proc/{pid}/task/{task}/children").read_text("ascii").split()
            for child in map(int, children):
                found += [child, *below(child)]
    except OSError:  # the process ended meanwhile
        pass
    return found


def peak_bytes(pid: int | None = None) -> int:
    """Return the peak resident memory of a process (VmHWM) in bytes, 0 if it is gone; None: this process."""
    return _entry(f"/proc/{pid or 'self'}/status", "VmHWM:")


def resident_bytes() -> int:
    """Return this process's current resident memory (VmRSS) in bytes."""
    return _entry("/proc/self/status", "VmRSS:")


def shared_once_bytes(pid: int) -> int:
    """Return a process's Pss in bytes (a page shared by n processes counts 1/n), 0 if it is gone."""
    return _entry(f"/proc/{pid}/smaps_rollup", "Pss:")


def forget_peak() -> None:
    """Reset this process's peak to its current resident memory, if the kernel allows it."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", "ascii")


def _entry(file: str, name: str) -> int:
    try:
        lines = Path(file).read_text("ascii", errors="replace").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(name)), 0)


def evict(path: Path) -> None:
    """Drop a file, or every file in a folder, from the page cache, after writing its dirty pages."""
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def main(arguments: list[str]) -> None:
    """Run a side in the child process and write its facts."""
    module, side, settings_file, result_file = arguments
    sides: Mapping[str, Side] = importlib.import_module(f"benchmarks.{module}").SIDES
    facts = sides[side](json.loads(Path(settings_file).read_text("utf-8")))
    facts.setdefault("peak_bytes", peak_bytes())
    Path(result_file).write_text(json.dumps(facts), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
