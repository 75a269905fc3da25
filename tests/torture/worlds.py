"""A run resumes with another number of ranks: all pairs of 1 to 4, with other ZeRO stages and micro-batches (T14).

Passed: the global order is identical, the losses are equal to 1e-5 relative, and the second launch logs the conversion.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np

from curriculum.order.split import divisors
from tests.torture.campaign import Tally
from tests.torture.forks import Forks
from tests.torture.runs import BATCH, PATIENCE_S, Ending, Material, difference, forget, prepared

FULL = 64
SIZES = (1, 2, 3, 4)
STAGES = (0, 1, 2, 3)
PAIRS = list(product(SIZES, SIZES))


def run(count: int, seed: int, work: Path) -> Tally:
    """Resize `count` runs; 16 consecutive cases cover every pair of world sizes."""
    tally = run_cases([seed] if count == 1 else range(seed * 16, seed * 16 + count), work)
    tally.seed = seed
    return tally


def run_cases(cases: Sequence[int], work: Path) -> Tally:
    """Resize one run per case."""
    tally = Tally("worlds", seed=cases[0])
    with prepared(work, 1, ["zero.stage=1", "micro_batch_size=12"]) as ground:
        for case in cases:
            tally.add(case, one_run(ground.forks, ground.material, work / "run", case, ground.whole))
            forget(work / "run")
    return tally


def one_run(forks: Forks, material: Material, folder: Path, seed: int, whole: Ending) -> str | None:
    """Kill a run and finish it with other ranks; return what went wrong. `seed` modulo 16 selects the pair."""
    draw = np.random.default_rng(seed)
    before, after = PAIRS[seed % len(PAIRS)]
    first, second = (_split(draw, size) for size in (before, after))
    step = int(draw.integers(4, material.order.steps))
    about = f"{before} ranks ({' '.join(first)}), then {after} ({' '.join(second)}) after step {step}"
    ranks = material.start(forks, folder, before, first, fault=f"loop.after_step:nth={step}:kill")
    codes = ranks.wait(PATIENCE_S)
    ranks.kill()
    ranks.wait(5)
    if -9 not in codes:
        return f"{about}: the first launch ended with {codes}: {ranks.told()[-300:]}"
    problem = material.finish(forks, folder, after, second) or difference(folder, material, whole, bitwise=False)
    said = ranks.told().count(f"and is converted for {after} rank")
    if problem is None and said != ((before, first) != (after, second)):
        problem = f"the second launch logs a conversion {said} times"
    return problem and f"{about}: {problem}"


def _split(draw: np.random.Generator, size: int) -> list[str]:
    """Draw a ZeRO stage and a micro-batch for a world size."""
    return [f"zero.stage={draw.choice(STAGES)}", f"micro_batch_size={draw.choice(divisors(BATCH // size))}"]
