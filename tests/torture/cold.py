"""SIGKILL of all processes of `pdpc train`, including DeepSpeed's launcher and the supervisor, then resume (T4).

The processes are fresh ones, as started by a user, not forks. Passed: no process is left, and the resumed run ends like
an undisturbed one. An attempt is a kill; one run takes up to KILLS of them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np

from tests.torture.campaign import Tally
from tests.torture.forks import ROOT
from tests.torture.network import living, nothing_left
from tests.torture.runs import PATIENCE_S, Material, difference, forget, prepared

FULL = 25
KILLS = 3
RANKS = 2


def run(count: int, seed: int, work: Path) -> Tally:
    """Kill `count` times."""
    tally, draw, case = Tally("cold", seed=seed), np.random.default_rng(seed), seed
    with prepared(work, RANKS) as ground:
        while tally.attempts < count:
            kills = min(KILLS, count - tally.attempts)
            killed, problem = one_run(ground.material, work / "run", case, kills)
            problem = problem or ground.material.finish(ground.forks, work / "run", RANKS)
            problem = problem or difference(work / "run", ground.material, ground.whole)
            for _ in range(max(1, killed)):
                tally.add(case, problem)
            forget(work / "run")
            case = int(draw.integers(0, 2**31))
    return tally


def one_run(material: Material, folder: Path, seed: int, kills: int) -> tuple[int, str | None]:
    """Start a run up to `kills` times and kill all its processes; return the number of kills, and what went wrong."""
    draw, words = np.random.default_rng(seed), [*material.words, f"output={folder}", f"processes={RANKS}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PDPC_CASE": str(folder)}
    for killed in range(kills):
        steps = int(draw.integers(0, 4))
        after_s = float(draw.uniform(0.0, 0.3 if steps else 4.0))  # no steps: during startup
        with open(folder.with_suffix(".log"), "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "launch.cli", "train", *words], cwd=ROOT, env=environment, stdout=log, stderr=log
            )
        try:
            _wait_for_steps(folder, steps, process)
            time.sleep(after_s)
        finally:
            process.kill()
            _kill(folder)
            code = process.wait()
        if code == 0:
            return killed, None  # the run was over before it could be killed
        if code != -signal.SIGKILL:
            return killed, f"pdpc train ended by itself with {code}: {folder.with_suffix('.log').read_text()[-600:]}"
        if not nothing_left(folder):
            return killed, f"processes are left: {living(folder)}"
    return kills, None


def _wait_for_steps(folder: Path, steps: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until this launch has recorded `steps` steps, or has ended."""
    metrics, deadline = folder / "metrics.jsonl", time.monotonic() + PATIENCE_S

    def lines() -> int:
        return metrics.read_bytes().count(b"\n") if metrics.exists() else 0

    before = lines()
    while lines() < before + steps and process.poll() is None and time.monotonic() < deadline:
        before = min(before, lines())  # a resumed run drops the records after its checkpoint
        time.sleep(0.01)


def _kill(folder: Path) -> None:
    """Kill all processes of the case, including those started meanwhile."""
    while pids := living(folder):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)
