"""Repeated faults in a run: kills, torn writes, signals, flipped bits, changing world sizes and ZeRO stages (T28).

Passed: every launch ends as its fault explains, and the run ends with every sample consumed once and in order, and
losses equal to 1e-5 relative. An attempt is a fault; a run takes up to FAULTS of them, and its seed replays them all.
Here no launcher ends the remaining ranks; they end by themselves. About once in some hundred kills of one rank, another
rank is stuck in a gloo collective that does not notice: the watchdog ends it.
"""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np

from curriculum.order.split import divisors
from tests.torture.campaign import Tally
from tests.torture.forks import Forks
from tests.torture.runs import BATCH, PATIENCE_S, Material, difference, forget, prepared
from train import checkpoint
from train.distributed.exit_codes import DISK_FULL, DONE, FAILED, HUNG, LEFT_ON_SIGTERM
from train.faults import POINTS
from train.records.layout import CHECKPOINTS

FULL = 200
FAULTS = 12
LAUNCHES, SAMPLES = 3, 300
"""Undisturbed runs, of which the last one is timed, and samples of each run."""
STRUCK = [name for name in POINTS if not POINTS[name].poisons]
MET = "attention: "
"""Start of rank 0's first log line after the rendezvous."""
JOIN_S = 5.0
"""Time for the ranks of a launch to join or exit after one of them was killed at the start."""
EXPLAINED = (DONE, FAILED, DISK_FULL, HUNG, LEFT_ON_SIGTERM, -signal.SIGKILL)
WATCHED = ("hang_timeout_s=20", "slow_timeout_s=60")
"""Settings of every launch: the watchdog acts before PATIENCE_S is over."""


def run(count: int, seed: int, work: Path) -> Tally:
    """Inject `count` faults; a count of 1 is one run with all its faults."""
    tally, draw = Tally("mixed", seed=seed), np.random.default_rng(seed)
    struck: dict[str, int] = {}
    with prepared(work, 1, launches=LAUNCHES, samples=SAMPLES) as ground:
        case, runs = seed, 0
        while tally.attempts < count and runs < 10 * count:
            faults, problem = one_run(ground.forks, ground.material, work / "run", case, ground.run_s)
            problem = problem or difference(work / "run", ground.material, ground.whole, bitwise=False)
            for name in faults:
                struck[name] = struck.get(name, 0) + 1
                tally.add(case, problem and f"{problem} (after {', '.join(faults)})")
            forget(work / "run")
            case, runs = int(draw.integers(0, 2**31)), runs + 1
    tally.notes.append(f"{runs} runs; {', '.join(f'{number} x {name}' for name, number in sorted(struck.items()))}")
    return tally


def one_run(forks: Forks, material: Material, folder: Path, seed: int, run_s: float) -> tuple[list[str], str | None]:
    """Inject up to FAULTS faults into a run and let it end; return the names of the faults and what went wrong."""
    draw, struck = np.random.default_rng(seed), list[str]()
    for _ in range(FAULTS):
        size = int(draw.integers(1, 5))
        stage, micro = draw.integers(0, 4), draw.choice(divisors(BATCH // size))
        words = [*WATCHED, f"zero.stage={stage}", f"micro_batch_size={micro}"]
        name = str(draw.choice(["kill all", "kill one", "terminate", "point", "flip a bit"]))
        moment_s = float(draw.uniform(0.05, 1.0)) * run_s
        fault = None
        if name == "point":
            action = draw.choice(["kill", "exit", "raise"])
            name = f"{draw.choice(STRUCK)}:{action}"
            fault = f"{name.rpartition(':')[0]}:rank={draw.integers(0, size)}:nth={draw.integers(1, 4)}:{action}"
        if name == "flip a bit" and not flip_a_bit(draw, folder):
            continue
        ranks = material.start(forks, folder, size, words, fault)
        logged = len(ranks.told())
        if fault is None:
            time.sleep(moment_s)
            number = signal.SIGTERM if name == "terminate" else signal.SIGKILL
            ranks.kill(number, [int(draw.choice(ranks.pids))] if name == "kill one" else None)
        if name == "kill one" and MET not in ranks.told()[logged:]:
            ranks.wait(JOIN_S)  # before the rendezvous: usually the launcher ends the waiting ranks
            ranks.kill()
        codes = ranks.wait(PATIENCE_S)
        ranks.kill()
        ranks.wait(5)
        if all(code == DONE for code in codes):
            break
        struck.append(name)
        if any(code not in EXPLAINED for code in codes):
            return struck, f"a launch of {size} ranks ended with {codes} after {fault or name}: {ranks.told()[-600:]}"
    return struck, material.finish(forks, folder, 1)


def flip_a_bit(draw: np.random.Generator, folder: Path) -> bool:
    """Flip a bit in a file of the newest checkpoint; return False if there is none."""
    found = checkpoint.candidates(folder / CHECKPOINTS)
    if not found:
        return False
    files = sorted(path for path in found[0].iterdir() if path.stat().st_size)
    if not files:
        return False
    path = files[int(draw.integers(0, len(files)))]
    data = bytearray(path.read_bytes())
    data[int(draw.integers(0, len(data)))] ^= 1 << int(draw.integers(0, 8))
    path.write_bytes(data)
    return True
