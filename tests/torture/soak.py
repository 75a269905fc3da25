"""A random fault after every 5 to 15 s of training, run after run: the goodput, or share of time spent usefully (T28).

Passed: every launch ends as its fault explains, and every run consumes each sample once and in order. Goodput is at
least GOODPUT: the time of the steps in the final runs, divided by the training time of their launches, from the first
record of a launch to its fault, including records, checkpoints, evaluations and lost steps. An attempt is a fault. When
it happens depends on the clock; a replay draws the same faults.

With checkpoints of C seconds and a fault every M seconds, at best 2 C / sqrt(2 C M) of the time is lost, with
sqrt(2 C M) seconds between checkpoints (Young 1974): here 9 %, at 0.9 s, for C of 40 ms and a fault every 10 s.
"""

from __future__ import annotations

import re
import signal
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from curriculum.order.consumed import as_hex, order_hash
from tests.torture.campaign import Tally
from tests.torture.forks import Forks, Ranks, served
from tests.torture.mixed import EXPLAINED, STRUCK, flip_a_bit
from tests.torture.runs import BATCH, PATIENCE_S, Ending, Material, forget
from train import checkpoint
from train.distributed.exit_codes import DONE
from train.records.layout import CHECKPOINTS
from train.tracking import METRICS, read_metrics

FULL = 100
STEPS = 2000
"""Steps per run."""
EVERY_S = (5.0, 15.0)
GOODPUT = 0.9
FAULTS = ("kill all", "kill one", "terminate", "stop one", "flip a bit", "point")
WORDS = ("checkpoints.keep_last=3", "hang_timeout_s=3", "slow_timeout_s=30")
SAVE_EVERY = (20, 20, 20, 10)
"""Steps between two checkpoints, and two records, by ZeRO stage: about a second (see above)."""
ENDS = (*EXPLAINED, -signal.SIGABRT)
"""Exit codes that a fault explains; the watchdog may have to abort a rank."""
SOON_S = 30.0
"""Time within which a launch must reach its fault point; otherwise it is killed."""


STEP = re.compile(r"^step (\d+)/", re.MULTILINE)
"""Start of a record's log line."""


@dataclass
class Account:
    """The time of all launches, in seconds."""

    useful_s: float = 0.0
    trained_s: float = 0.0
    struck: dict[str, int] = field(default_factory=dict)


def run(count: int, seed: int, work: Path) -> Tally:
    """Inject `count` faults."""
    tally, draw, account = Tally("soak", seed=seed), np.random.default_rng(seed), Account()
    material, case, runs, started = (
        Material.make(work / "material", 3, STEPS * BATCH * 10 // 9),
        seed,
        0,
        time.monotonic(),
    )
    with served() as forks:
        while tally.attempts < count:
            faults, problem = one_run(forks, material, work / "run", case, count - tally.attempts, account)
            for name in faults:
                tally.add(case, problem and f"{problem} (after {', '.join(faults)})")
                account.struck[name] = account.struck.get(name, 0) + 1
            if problem and not faults:
                tally.add(case, problem)
            forget(work / "run")
            case, runs = int(draw.integers(0, 2**31)), runs + 1
    goodput = account.useful_s / max(account.trained_s, 1e-9)
    kinds = ", ".join(f"{number} x {name}" for name, number in sorted(account.struck.items()))
    took_s = time.monotonic() - started
    tally.notes.append(f"goodput {goodput:.1%} of {account.trained_s:.0f} s in {took_s:.0f} s; {runs} runs; {kinds}")
    if goodput < GOODPUT:
        tally.passed = 0
        tally.failures.append(f"seed {seed}: goodput {goodput:.1%} is below {GOODPUT:.0%}")
    return tally


def one_run(
    forks: Forks, material: Material, folder: Path, seed: int, most: int, account: Account
) -> tuple[list[str], str | None]:
    """Inject up to `most` faults into a run and let it end; return the names of the faults and what went wrong."""
    draw, struck = np.random.default_rng(seed), list[str]()
    firsts: set[int] = set()
    while len(struck) < most:
        size, name = int(draw.integers(1, 3)), str(draw.choice(FAULTS))
        wait_s, fault = float(draw.uniform(*EVERY_S)), None
        if name == "point":
            name = f"{draw.choice(STRUCK)}:{draw.choice(['kill', 'exit', 'raise'])}"
            point, _, action = name.partition(":")
            fault = f"{point}:rank={draw.integers(0, size)}:nth={draw.integers(2, 40)}:{action}"
        logged = len(folder.with_suffix(".log").read_text("utf-8", "replace")) if struck else 0
        stage = int(draw.integers(0, 4))
        words = [*WORDS, f"zero.stage={stage}"]
        words += [f"{key}={SAVE_EVERY[stage]}" for key in ("checkpoints.save_every", "log_every")]
        ranks = material.start(forks, folder, size, words, fault)
        first = _first_step(ranks, logged)
        started = time.monotonic()
        ended = _one_ended(ranks, wait_s if fault is None else SOON_S)
        account.trained_s += (time.monotonic() - started) * (first > 0)
        codes = ranks.wait(SOON_S if ended else 0)
        if None in codes:
            name = _strike(ranks, "kill all" if fault else name, draw)
            codes = ranks.wait(PATIENCE_S)
        ranks.kill()
        ranks.wait(5)
        if name == "flip a bit":
            flip_a_bit(draw, folder)
        firsts.add(first)
        if all(code == DONE for code in codes):
            break
        struck.append(name)
        if any(code not in ENDS for code in codes):
            return struck, f"a launch of {size} ranks ended with {codes} after {fault or name}: {ranks.told()[-600:]}"
    newest = checkpoint.newest(folder / CHECKPOINTS)  # later steps are repeated by the final launch, not counted here
    last = checkpoint.step_of(newest) if newest else 0
    problem = material.finish(forks, folder, 1)
    if problem:
        return struck, problem
    records = [record for record in read_metrics(folder / METRICS) if record["kind"] == "train"]
    account.useful_s += sum(
        (record["step"] - before["step"]) * record["time/step_s"]
        for before, record in pairwise(records)
        if record["step"] <= last and record["step"] not in firsts
    )
    return struck, _not_once(folder, material)


def _first_step(ranks: Ranks, logged: int) -> int:
    """Wait for the first record of a launch and return its step; 0 if the launch ended before."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        ended = None not in ranks.wait(0)
        if found := STEP.search(ranks.told()[logged:]):
            return int(found.group(1))
        if ended:
            break
        time.sleep(0.02)
    return 0


def _one_ended(ranks: Ranks, wait_s: float) -> bool:
    """Wait up to `wait_s` seconds for a rank to end; return whether one has."""
    deadline = time.monotonic() + wait_s
    while not any(code is not None for code in ranks.wait(0)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _strike(ranks: Ranks, name: str, draw: np.random.Generator) -> str:
    """Inject a fault; return its name. A single rank is killed instead of stopped, which no rank would detect."""
    if name == "stop one" and len(ranks.pids) == 1:
        name = "kill one"
    number = {"terminate": signal.SIGTERM, "stop one": signal.SIGSTOP}.get(name, signal.SIGKILL)
    ranks.kill(number, [int(draw.choice(ranks.pids))] if name in ("kill one", "stop one") else None)
    return name


def _not_once(folder: Path, material: Material) -> str | None:
    """Return what is wrong if a finished run did not consume every sample once and in order."""
    ending, order = Ending.of(folder), material.order
    if ending.consumed != order[0 : len(order)].tolist():
        return "the consumed samples are not the order"
    whole = as_hex(order_hash(order, len(order)))
    return None if ending.consumed_hash == whole else f"the consumed hash {ending.consumed_hash} is not {whole}"
