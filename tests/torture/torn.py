"""SIGKILL of one rank inside its part of a checkpoint, then resume to the end (T2).

Passed: the other ranks end by themselves with an error within 10 s, and the run resumes from an intact checkpoint and
ends with the same samples, weights, moments and metrics, bit for bit. `red` does the same with plain DeepSpeed.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from tests.torture.campaign import Tally, case_seeds
from tests.torture.forks import Forks
from tests.torture.runs import Material, difference, forget, prepared

FULL = 200
RANKS = 2
END_S = 10.0
POINTS = ("checkpoint.before_write", "checkpoint.in_shard", "checkpoint.after_shard", "checkpoint.after_sync")


def run(count: int, seed: int, work: Path) -> Tally:
    """Kill one rank in its write `count` times."""
    tally = Tally("torn", seed=seed)
    with prepared(work, RANKS) as ground:
        for case in case_seeds(seed, count):
            problem = one_run(ground.forks, ground.material, work / "run", case)
            tally.add(case, problem or difference(work / "run", ground.material, ground.whole))
            forget(work / "run")
    return tally


def one_run(forks: Forks, material: Material, folder: Path, seed: int) -> str | None:
    """Kill a rank in one of its writes and let the run end; return what went wrong."""
    draw = np.random.default_rng(seed)
    rank, saves = int(draw.integers(0, RANKS)), len(_saves(material))
    point = str(draw.choice(POINTS, p=[0.1, 0.6, 0.15, 0.15]))
    fault = f"{point}:rank={rank}:nth={int(draw.integers(1, saves + 1))}:kill"
    ranks = material.start(forks, folder, RANKS, fault=fault)
    while ranks.wait(0)[rank] is None:
        time.sleep(0.002)
    codes = ranks.wait(END_S)
    ranks.kill()
    ranks.wait(5)
    if codes[rank] != -9:
        return f"{fault} did not happen: {codes}: {ranks.told()[-300:]}"
    for other, code in enumerate(codes):
        if other != rank and (code is None or code <= 0):
            return f"{fault}: rank {other} ended with {code} instead of an error"
    problem = material.finish(forks, folder, RANKS)
    return problem and f"{fault}: {problem}"


def _saves(material: Material) -> set[int]:
    """Return the steps after which a run saves."""
    every = next(int(word.partition("=")[2]) for word in material.words if word.startswith("checkpoints.save_every="))
    return {*material.order.stage_ends, *range(every, material.order.steps + 1, every)}
