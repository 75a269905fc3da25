"""One rank becomes slow at some step: it sleeps, so that its steps take five times as long (T13).

Passed: that rank, and no other, is named within 20 steps and recorded, and the run ends like an undisturbed one. Then
an undisturbed run of STEPS steps per attempt: no rank is named.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from tests.torture.campaign import Tally, case_seeds
from tests.torture.forks import Forks
from tests.torture.forks import train as rank_of
from tests.torture.runs import BATCH, PATIENCE_S, Material, difference, forget, prepared
from train.records.run_json import read_run
from train.tracking import read_metrics

FULL = 30
WITHIN = 20
SLOW_FROM = (4, 12)
"""Range (end excluded) of the steps after which a rank becomes slow."""
STEPS = 100
"""Undisturbed steps per attempt."""
POINTS = ("loop.before_step", "loop.after_forward", "loop.after_backward", "loop.after_step", "data", "products")
"""Where the rank sleeps: at a fault point, while reading data, or in the matrix products of its blocks."""
PRODUCTS = 7
"""Matrix products per block."""
NAMED = re.compile(r"step (\d+): rank (\d+) \(\S+\) is a straggler: .* ([\d.]+) times")


def run(count: int, seed: int, work: Path) -> Tally:
    """Slow a rank down `count` times, then run undisturbed."""
    tally, waits = Tally("straggler", seed=seed), list[int]()
    with prepared(work, launches=2, samples=(SLOW_FROM[1] + WITHIN + 4) * BATCH) as ground:
        for case in case_seeds(seed, count):
            waited, problem = one_run(ground.forks, ground.material, work / "run", case)
            problem = problem or difference(work / "run", ground.material, ground.whole, bitwise=False)
            tally.add(case, problem)
            waits += waited
            forget(work / "run")
        steps, warnings = quiet_run(ground.forks, work, STEPS * count)
    if warnings:
        tally.passed = 0
        tally.failures.append(f"in {steps} undisturbed steps: {warnings}")
    if waits:
        tally.notes.append(
            f"named after {min(waits)} to {max(waits)} steps, median {median(waits):g}; {steps} undisturbed steps"
        )
    return tally


def one_run(forks: Forks, material: Material, folder: Path, seed: int) -> tuple[list[int], str | None]:
    """Make a rank slow; return the number of steps until it was named, and what went wrong."""
    draw = np.random.default_rng(seed)
    size = int(draw.integers(2, 5))
    slow, begins = int(draw.integers(0, size)), int(draw.integers(*SLOW_FROM))
    point, stage = str(draw.choice(POINTS)), int(draw.integers(0, 4))
    words = [f"zero.stage={stage}", f"micro_batch_size={BATCH // size}"]
    problem = material.finish(forks, folder, size, words)  # to measure the time of a step
    if problem:
        return [], problem
    step_s = median(
        record["time/step_s"] for record in read_metrics(folder / "metrics.jsonl") if "time/step_s" in record
    )
    forget(folder)
    sleep_s = 4 * step_s
    arguments = {"words": [*material.words, *words], "output": str(folder), "slow": slow, "begins": begins}
    arguments |= {"sleep_s": sleep_s, "point": point}
    fault = f"{point}:rank={slow}:nth={begins + 1}:sleep={sleep_s:.4f}"
    environment = {"PDPC_FAULT": fault} if point.startswith("loop.") else {}
    ranks = forks.start("tests.torture.straggler:rank", arguments, size, folder.with_suffix(".log"), environment)
    codes = ranks.wait(PATIENCE_S)
    ranks.kill()
    about = f"{size} ranks, {' '.join(words)}, {fault}"
    if codes != [0] * size:
        return [], f"{about}: ended with {codes}: {ranks.told()[-600:]}"
    named = [(int(step), int(rank)) for step, rank, _ in NAMED.findall(ranks.told())]
    if [rank for _, rank in named] != [slow]:
        return [], f"{about}: named were (step, rank) {named}"
    waited = named[0][0] - begins
    if waited > WITHIN:
        return [waited], f"{about}: named only after {waited} steps"
    last = [record for record in read_metrics(folder / "metrics.jsonl") if record["kind"] == "train"][-1]
    if last["straggler/rank"] != slow:
        return [waited], f"{about}: the last record names {last['straggler/rank']}"
    return [waited], None


def rank(words: list[str], output: str, slow: int, begins: int, sleep_s: float, point: str) -> int:
    """Run a rank; the slow one may sleep while reading data or in the products, which have no fault point."""
    from torch import nn

    from train import loop

    batches, product, calls = loop.batches, nn.Linear.forward, 0

    def slow_batches(*asked: Any) -> Iterator[Any]:
        for number, batch in enumerate(batches(*asked)):
            time.sleep(sleep_s * (number >= begins))
            yield batch

    def slow_product(module: nn.Linear, x: Any) -> Any:
        nonlocal calls
        calls += 1
        time.sleep(sleep_s / PRODUCTS * (calls > begins * PRODUCTS))
        return product(module, x)

    if int(os.environ["RANK"]) == slow and point == "data":
        loop.batches = slow_batches
    if int(os.environ["RANK"]) == slow and point == "products":
        nn.Linear.forward = slow_product  # type: ignore[method-assign]
    return rank_of(words, output)


def quiet_run(forks: Forks, work: Path, steps: int) -> tuple[int, list[str]]:
    """Run about `steps` undisturbed steps on two ranks; return their number, and the log lines about stragglers."""
    material = Material.make(work / "long", stages=1, samples=round(steps * BATCH / 0.9) + BATCH)
    folder = work / "quiet"
    ranks = material.start(forks, folder, 2, ["log_every=10", "checkpoints.save_every=null"])
    codes = ranks.wait(PATIENCE_S + steps)
    ranks.kill()
    if codes != [0, 0] or read_run(folder)["status"] != "finished":
        return 0, [f"the run ended with {codes}: {ranks.told()[-600:]}"]
    made = material.order.steps
    return made, [line for line in ranks.told().splitlines() if "is a straggler" in line]
