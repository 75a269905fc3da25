"""W&B out of reach: a server that hangs, refuses, fails, is slow, sends garbage or dies must not affect the run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tests.torture.campaign import Tally, case_seeds
from tests.torture.wandb_server import DENIED, ERROR, MODES, SLOW, WELL, WandbServer, wait_for

FULL = 100
START_S = 5.0
"""Maximum delay of a run's start."""
LOG_S = 0.002
"""Maximum time per record on the training thread (median over the records)."""
OFFLINE = "offline"
ROOT = Path(__file__).parents[2]


def run(count: int, seed: int, work: Path) -> Tally:
    """Run `count` short runs, each with a server that misbehaves in some way, or offline."""
    tally = Tally("network", seed=seed)
    for number, case in enumerate(case_seeds(seed, count)):
        folder = work / f"case_{number}"
        folder.mkdir()
        rng = np.random.default_rng(case)
        mode = (*MODES, OFFLINE)[int(rng.integers(len(MODES) + 1))]
        tally.add(case, problem_of(mode, rng, folder))
    return tally


def problem_of(mode: str, rng: np.random.Generator, folder: Path) -> str | None:
    """Run one case; return what went wrong, None if nothing did."""
    canary = "canary" + "".join(f"{int(value):x}" for value in rng.integers(0, 16, 40))
    steps, finish_s = int(rng.integers(5, 60)), float(rng.uniform(0.3, 2.0))
    tracker = {
        "name": "wandb",
        "start_s": float(rng.uniform(0.5, 4.0)),
        "retry_s": float(rng.uniform(0.1, 2.0)),
        "finish_s": finish_s,
        "queue": int(rng.choice([4, 16, 4096])),
    }
    step_s = float(rng.uniform(0.001, 0.04))
    with WandbServer(WELL if mode == OFFLINE else mode, answers=int(rng.integers(1, 12))) as server:
        environment = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": canary}
        environment["WANDB_MODE"] = OFFLINE if mode == OFFLINE else "online"
        done, measured = tracked(folder, tracker, environment, last=steps, step_s=step_s)
        output = done.stdout + done.stderr
        problems = [
            (done.returncode != 0, f"exit code {done.returncode}: {done.stderr[-300:]}"),
            (measured.get("start_s", 0.0) > START_S, f"the start was delayed by {measured.get('start_s')} s"),
            (median(measured.get("log_s", [0.0])) > LOG_S, "logging delayed the training thread"),
            (measured.get("finish_s", 0.0) > finish_s + 1.0, f"the end took {measured.get('finish_s')} s"),
            (steps_of(folder) != list(range(1, steps + 1)), "metrics.jsonl is incomplete"),
            (canary in output or holding(folder, canary), "the API key was written to the output"),
            (mode in (ERROR, SLOW, DENIED) and "records sent" not in output, f"unsent records not reported: {output}"),
            (not nothing_left(folder), "a process was left behind"),
        ]
    found = [text for wrong, text in problems if wrong]
    return f"{mode}: {'; '.join(found)}" if found else None


def tracked(
    folder: Path,
    tracker: dict[str, Any],
    environment: dict[str, str],
    *,
    first: int = 1,
    last: int,
    step_s: float = 0.0,
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Run tests.torture.tracked_run; return the process and its measurements."""
    (folder / "run").mkdir(exist_ok=True)
    settings = {"folder": str(folder / "run"), "tracker": tracker, "first": first, "last": last, "step_s": step_s}
    (folder / "settings.json").write_text(json.dumps(settings))
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.torture.tracked_run", str(folder / "settings.json")],
        cwd=ROOT,
        env={**inherited, "PYTHONPATH": str(ROOT), **environment, "HOME": str(folder), "PDPC_CASE": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"start_s"')]
    return done, json.loads(lines[-1]) if lines else {}


def steps_of(folder: Path) -> list[int]:
    """Return the recorded steps, parsed as strict JSON."""

    def refuse(name: str) -> float:
        raise ValueError(f"{name} is not JSON")

    lines = (folder / "run" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line, parse_constant=refuse)["step"] for line in lines]


def holding(folder: Path, secret: str) -> bool:
    """Return whether a file of the run contains a secret."""
    return any(secret.encode() in path.read_bytes() for path in (folder / "run").rglob("*") if path.is_file())


def nothing_left(folder: Path, limit_s: float = 10.0) -> bool:
    """Return whether all processes of a case have ended, including wandb's own."""
    return wait_for(lambda: not living(folder), limit_s)


def living(folder: Path) -> list[int]:
    """Return the processes of a case, including orphans, identified by their environment."""
    marker = f"PDPC_CASE={folder}\0".encode()
    return [int(path.name) for path in Path("/proc").glob("[0-9]*") if marker in _environment(path)]


def _environment(process: Path) -> bytes:
    """Return a process's environment; empty if it is gone, a zombie or another user's."""
    try:
        return (process / "environ").read_bytes()
    except OSError:
        return b""
