"""SIGKILL of all ranks at random times, repeatedly, then resume to the end (T1).

Passed: the resumed run finishes, every sample is consumed once and in order, and the final weights, moments and metrics
are equal bit for bit. An attempt is a kill; one run takes up to KILLS of them, and its seed replays them all.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from tests.torture.campaign import Tally
from tests.torture.forks import Forks, Ranks
from tests.torture.runs import PATIENCE_S, Material, difference, forget, prepared
from train.records.layout import CHECKPOINTS

FULL = 1000
KILLS = 10
RANKS = 2
LAUNCHES, SAMPLES = 3, 300
"""Undisturbed runs, of which the last one is timed, and samples of each run."""


def run(count: int, seed: int, work: Path) -> Tally:
    """Kill `count` times; a count of 1 is one run with all its kills."""
    tally, draw, kinds = Tally("kills", seed=seed), np.random.default_rng(seed), dict.fromkeys(WHEN, 0)
    with prepared(work, RANKS, launches=LAUNCHES, samples=SAMPLES) as ground:
        case, runs = seed, 0
        while tally.attempts < count and runs < 10 * count:
            killed, problem = one_run(ground.forks, ground.material, work / "run", case, ground.run_s, kinds)
            problem = problem or difference(work / "run", ground.material, ground.whole)
            for _ in range(killed):
                tally.add(case, problem)
            forget(work / "run")
            case, runs = int(draw.integers(0, 2**31)), runs + 1
    tally.notes.append(f"{runs} runs; {', '.join(f'{number} kills {name}' for name, number in kinds.items())}")
    return tally


def one_run(
    forks: Forks, material: Material, folder: Path, seed: int, run_s: float, kinds: dict[str, int]
) -> tuple[int, str | None]:
    """Kill a run up to KILLS times and let it end; return the number of kills and what went wrong."""
    draw, killed = np.random.default_rng(seed), 0
    for _ in range(KILLS):
        when = str(draw.choice(list(WHEN), p=list(WHEN.values())))
        share, order = float(draw.uniform()), draw.permutation(RANKS)
        ranks = material.start(forks, folder, RANKS)
        _wait_for(when, share, folder, ranks, run_s)
        ranks.kill(pids=[ranks.pids[rank] for rank in order])
        codes = ranks.wait(PATIENCE_S)
        if codes == [0] * RANKS:
            break  # the run finished before the signal
        killed += 1
        kinds[when] += 1
        if any(code not in (0, -9) for code in codes):
            return killed, f"a launch ended by itself with {codes}: {ranks.told()[-600:]}"
    return killed, material.finish(forks, folder, RANKS)


WHEN = {"at any time": 0.4, "in a save": 0.35, "in an evaluation": 0.25}
"""Moments of the kills, with their probabilities."""
SAVE_S = 0.03
"""Longest wait after a save has started, or a checkpoint has been published."""


def _wait_for(when: str, share: float, folder: Path, ranks: Ranks, run_s: float) -> None:
    if when == "at any time":
        time.sleep(share * run_s)
        return
    before = _checkpoints(folder)
    deadline = time.monotonic() + run_s
    while time.monotonic() < deadline and ranks.alive():
        now = _checkpoints(folder)
        started = any(not name.startswith("step_") for name in now - before)
        published = any(name.startswith("step_") for name in now - before)
        if (when == "in a save" and started) or (when == "in an evaluation" and published):
            time.sleep(share * SAVE_S)
            return
        before = now if when == "in an evaluation" else before & now
        time.sleep(0.0005)


def _checkpoints(folder: Path) -> set[str]:
    try:
        return {path.name for path in (folder / CHECKPOINTS).iterdir()}
    except OSError:
        return set()
