"""Run groups of checks in processes of their own, against a deadline: whatever happens in one, the others run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from benchmarks.gpu.check import Row
from benchmarks.gpu.child import DEVICE_LOST

LEAST_S = 10.0
"""A process is not started with less time than this: importing torch and DeepSpeed alone takes as long."""
LOG_TAIL = 1500
SUPERVISOR = "PDPC_SUPERVISOR_PID"
"""As in train/distributed/world.py, which needs torch: ranks exit when this process is gone, for any reason."""


@dataclass(frozen=True)
class Group:
    """Checks that share a process."""

    name: str
    module: str
    """Dotted name of a module whose `checks(settings)` returns them by name."""
    limit_s: float
    """Most seconds of one process of the group."""
    ranks: int = 1
    """Processes, one per GPU; rank 0 reports."""


class Clock:
    """The time that is left for everything."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    def left_s(self) -> float:
        """Return the seconds that are left."""
        return self._end - time.monotonic()


def run_together(
    groups: Sequence[Group], settings: Mapping[str, Any], folder: Path, clock: Clock, at_once: int
) -> list[Row]:
    """Run groups, `at_once` at a time; return their rows in the order of the groups."""
    with ThreadPoolExecutor(at_once) as pool:
        found = pool.map(lambda group: run_group(group, settings, folder, clock), groups)
        return [row for rows in found for row in rows]


def run_group(group: Group, settings: Mapping[str, Any], folder: Path, clock: Clock) -> list[Row]:
    """Run a group, in further processes if one ends early; return a row per check."""
    rows: dict[str, Row] = {}
    while True:
        limit_s = min(group.limit_s, clock.left_s())
        if limit_s < LEAST_S:
            rows.setdefault(group.name, {"check": group.name, "state": "skipped", "why": "no time left (--minutes)"})
            break
        plan, started, ended, code, log = _process(group, {**settings, "done": list(rows)}, folder, limit_s)
        rows |= ended
        why = f"no result after {limit_s:.0f} s" if code is None else _cause(code, log)
        if started is not None and started not in ended:
            rows[started] = {"check": started, "state": "failed", "why": f"its process ended: {why}", "log": log}
        elif code not in (0, DEVICE_LOST):  # before the first check, or after the last one
            rows[group.name] = {"check": group.name, "state": "failed", "why": why, "log": log}
            break
        if all(name in rows for name in plan):
            break
    return [{"group": group.name, **row} for row in rows.values()]


def _process(
    group: Group, settings: Mapping[str, Any], folder: Path, limit_s: float
) -> tuple[list[str], str | None, dict[str, Row], int | None, str]:
    """Run one process; return its plan, the last check it started, its rows, exit code (None: time-out) and log."""
    number = uuid4().hex[:8]  # groups run at the same time
    given, result = (folder / f"{number}.{ending}" for ending in ("json", "jsonl"))
    given.write_text(json.dumps(dict(settings)), "utf-8")
    program = [sys.executable, "-m"]
    if group.ranks > 1:
        program += ["torch.distributed.run", "--standalone", f"--nproc-per-node={group.ranks}", "-m"]
    environment = {**os.environ, SUPERVISOR: str(os.getpid()), "HF_HUB_OFFLINE": "1"}
    environment |= {"CUDA_VISIBLE_DEVICES": ""} if settings["device"] == "cpu" else {}
    command = [*program, "benchmarks.gpu.child", group.module, str(given), str(result)]
    log = folder / f"{number}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError):  # whatever it started, too
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    plan: list[str] = []
    started: str | None = None
    rows: dict[str, Row] = {}
    for fact in _facts(result):
        plan = fact.get("plan", plan)
        started = fact.get("started", started)
        if "row" in fact:
            rows[fact["row"]["check"]] = fact["row"]
    return plan, started, rows, code, log.read_text("utf-8", errors="replace")[-LOG_TAIL:]


def _facts(path: Path) -> Iterator[Row]:
    """Yield the lines of a result; a process that was killed may have left half a line."""
    if path.is_file():
        for line in path.read_text("utf-8").splitlines():
            with suppress(ValueError):
                yield json.loads(line)


def _cause(code: int, log: str) -> str:
    if code < 0:
        return f"signal {signal.Signals(-code).name}"
    last = log.strip().splitlines()
    return f"code {code}: {last[-1] if last else 'no output'}"
