"""SIGTERM, SIGINT and SIGUSR1, to one rank or to all, once or twice, at random times (T11).

Passed: every rank exits with 128 + the signal's number within the grace period, with a checkpoint of the last step, and
the resumed run ends like an undisturbed one. An attempt is a preemption; one run takes up to PREEMPTIONS of them.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np

from tests.torture.campaign import Tally
from tests.torture.forks import Forks, Ranks
from tests.torture.runs import PATIENCE_S, Material, difference, forget, prepared
from train import checkpoint
from train.distributed.signals import ASKING, SAME_S
from train.records.layout import CHECKPOINTS
from train.tracking import read_metrics

FULL = 200
PREEMPTIONS = 6
RANKS = 2
GRACE_S = 10.0
WORDS = (f"grace_s={GRACE_S}",)


def run(count: int, seed: int, work: Path) -> Tally:
    """Preempt `count` times."""
    tally, draw, case = Tally("preempt", seed=seed), np.random.default_rng(seed), seed
    kinds: dict[str, int] = {}
    with prepared(work, RANKS, stages=2, samples=300) as ground:
        while tally.attempts < count:
            left, problem = one_run(ground.forks, ground.material, work / "run", case, kinds)
            problem = problem or difference(work / "run", ground.material, ground.whole)
            for _ in range(min(max(1, left), count - tally.attempts)):
                tally.add(case, problem)
            forget(work / "run")
            case = int(draw.integers(0, 2**31))
    tally.notes.append(", ".join(f"{number} {name}" for name, number in sorted(kinds.items())))
    return tally


def one_run(forks: Forks, material: Material, folder: Path, seed: int, kinds: dict[str, int]) -> tuple[int, str | None]:
    """Preempt a run up to PREEMPTIONS times and let it end; return the number of preemptions, and what went wrong."""
    draw, left = np.random.default_rng(seed), 0
    for _ in range(PREEMPTIONS):
        number = ASKING[draw.integers(0, len(ASKING))]
        target = int(draw.integers(0, RANKS)) if draw.random() < 0.4 else None
        twice, after_s = bool(draw.random() < 0.15), float(draw.uniform(0.0, 0.35))
        ranks = material.start(forks, folder, RANKS, WORDS)
        _wait_for_step(folder, ranks)
        time.sleep(after_s)
        targets = ranks.pids if target is None else [ranks.pids[target]]
        ranks.kill(number, targets)
        started = time.monotonic()
        if twice:
            time.sleep(SAME_S * 1.2)
            ranks.kill(number, targets)
        codes = ranks.wait(PATIENCE_S)
        wait_s = time.monotonic() - started
        ranks.kill()
        if codes == [0] * RANKS:
            break  # the run finished before the signal
        if codes != [128 + number] * RANKS:
            about = f"{signal.Signals(number).name} to {'all' if target is None else f'rank {target}'}"
            return left, f"{about}: ended with {codes}: {ranks.told()[-600:]}"
        if wait_s > GRACE_S:
            return left, f"exited only after {wait_s:.1f} s"
        left += 1
        kind = f"{signal.Signals(number).name} to {'all' if target is None else 'one'}{', twice' if twice else ''}"
        kinds[kind] = kinds.get(kind, 0) + 1
        newest = checkpoint.newest(folder / CHECKPOINTS)
        last = max((record["step"] for record in read_metrics(folder / "metrics.jsonl")), default=0)
        if newest is None or checkpoint.step_of(newest) != last:
            return left, f"step {last} was completed, but the newest checkpoint is {newest}"
    return left, material.finish(forks, folder, RANKS)


def _wait_for_step(folder: Path, ranks: Ranks) -> None:
    """Wait until this launch has completed a step: before that there is nothing to save."""
    metrics = folder / "metrics.jsonl"
    started = time.time()
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline and None in ranks.wait(0):
        if metrics.exists() and metrics.stat().st_size and metrics.stat().st_mtime > started:
            return
        time.sleep(0.005)
