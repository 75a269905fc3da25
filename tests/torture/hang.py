"""A rank that stops (SIGSTOP) or hangs, at random points of a run (T10).

Passed: detected within the timeout plus 5 s, no process left, the stacks of all ranks dumped, exit code 79 (a stopped
rank may have to be killed), and the resumed run ends like an undisturbed one. An attempt is a hang; one run takes up to
HANGS of them.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np

from tests.torture.campaign import Tally
from tests.torture.forks import Forks
from tests.torture.runs import PATIENCE_S, Material, difference, forget, prepared
from train.distributed.exit_codes import HUNG
from train.records.layout import STACKS

FULL = 50
HANGS = 3
RANKS = 2
TIMEOUT_S = 2.0
WITHIN_S = 5.0
POINTS = ("loop.before_step", "loop.after_forward", "loop.after_backward", "loop.after_step")
WORDS = (f"hang_timeout_s={TIMEOUT_S}", "slow_timeout_s=60")


def run(count: int, seed: int, work: Path) -> Tally:
    """Hang `count` times."""
    tally, draw, case = Tally("hang", seed=seed), np.random.default_rng(seed), seed
    longest = 0.0
    with prepared(work, RANKS) as ground:
        while tally.attempts < count:
            hangs = min(HANGS, count - tally.attempts)
            waits, problem = one_run(ground.forks, ground.material, work / "run", case, hangs)
            problem = problem or difference(work / "run", ground.material, ground.whole)
            for _ in range(hangs):
                tally.add(case, problem)
            longest = max([longest, *waits])
            forget(work / "run")
            case = int(draw.integers(0, 2**31))
    tally.notes.append(
        f"longest time from the fault to the end of the last process: {longest:.1f} s (timeout {TIMEOUT_S} s)"
    )
    return tally


def one_run(forks: Forks, material: Material, folder: Path, seed: int, hangs: int) -> tuple[list[float], str | None]:
    """Make a run hang `hangs` times, then let it end; return the time to detect each hang, and what went wrong."""
    draw, waits = np.random.default_rng(seed), []
    for _ in range(hangs):
        # The second or third step of a launch: the first has a longer timeout, and every launch makes at least three.
        rank, point, nth = draw.integers(0, RANKS), draw.choice(POINTS), draw.integers(2, 4)
        if point == "loop.after_forward":
            nth = 2 * nth - draw.integers(0, 2)  # two micro-batches per step
        fault = f"{point}:rank={rank}:nth={nth}:{draw.choice(['stop', 'hang'])}"
        wait_s, problem = _one_hang(forks, material, folder, fault)
        if problem:
            return waits, f"{fault}: {problem}"
        waits.append(wait_s)
    return waits, material.finish(forks, folder, RANKS)


def _one_hang(forks: Forks, material: Material, folder: Path, fault: str) -> tuple[float, str | None]:
    log = folder.with_suffix(".log")
    log.unlink(missing_ok=True)
    ranks = material.start(forks, folder, RANKS, WORDS, fault)
    deadline = time.monotonic() + PATIENCE_S
    while "fault " not in ranks.told() and None in ranks.wait(0) and time.monotonic() < deadline:
        time.sleep(0.01)
    started = time.monotonic()
    codes = ranks.wait(TIMEOUT_S + 4 * WITHIN_S)
    wait_s = time.monotonic() - started
    ranks.kill()
    if "fault " not in ranks.told():
        return wait_s, f"never reached its fault point: {codes} {ranks.told()[-300:]}"
    if HUNG not in codes or not set(codes) <= {HUNG, -9}:
        return wait_s, f"ended with {codes}: {ranks.told()[-600:]}"
    if wait_s > TIMEOUT_S + WITHIN_S:
        return wait_s, f"detected only after {wait_s:.1f} s"
    for rank in range(RANKS):
        path = folder / STACKS / f"rank_{rank:05d}.txt"
        if not path.is_file() or "most recent call first" not in path.read_text():
            return wait_s, f"{path} has no stack"
        path.unlink()
    return wait_s, None
