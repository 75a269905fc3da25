"""SIGKILL, SIGTERM and a full disk in runs with AdamW states on disk (`zero.offload_optimizer=nvme`), then resume.

Passed: every launch ends as its fault explains (-9, 143, 75), the resumed run equals bit for bit an undisturbed one
with AdamW states in host memory, and no swap file is left at the end. An attempt is one fault.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tests.torture.campaign import Tally, case_seeds
from tests.torture.forks import Ranks
from tests.torture.runs import PATIENCE_S, Ground, difference, forget, prepared

FULL = 100
RANKS = 2
FAULTS = {"SIGKILL": (-9,), "SIGTERM": (143,), "a full disk": (75,)}
"""Faults with the exit codes that they explain, in addition to LOST."""
LOST = (0, 1)
"""Exit codes of a rank that is done, or that lost its connection to the other rank."""
WORDS = ("zero.stage=3", "zero.sub_group_size=3000")
MOST_FILES = 6
"""Fewer than this number of a rank's swap files fit on a full disk."""


def run(count: int, seed: int, work: Path) -> Tally:
    """Disturb `count` runs, once each."""
    tally, struck = Tally("swap", seed=seed), dict.fromkeys(FAULTS, 0)
    (work / "fast").mkdir(parents=True)
    with prepared(work, RANKS, (*WORDS, "zero.offload_optimizer=cpu")) as ground:
        for case in case_seeds(seed, count):
            tally.add(case, one_run(ground, work, case, struck))
            forget(work / "run")
    tally.notes.append(", ".join(f"{number} times {name}" for name, number in struck.items()))
    return tally


def one_run(ground: Ground, work: Path, case: int, struck: dict[str, int]) -> str | None:
    """Disturb a run and let it end; return what went wrong."""
    draw = np.random.default_rng(case)
    name = str(draw.choice(list(FAULTS)))
    ranks = _start(ground, work, files=int(draw.integers(MOST_FILES)) if name == "a full disk" else None)
    if name != "a full disk":
        _wait_for(ranks, work / "run", int(draw.integers(ground.material.order.steps - 1)), float(draw.uniform(0, 0.2)))
        ranks.kill(signal.SIGKILL if name == "SIGKILL" else signal.SIGTERM)
    codes = ranks.wait(PATIENCE_S)
    struck[name] += codes != [0] * RANKS
    if any(code not in (*LOST, *FAULTS[name]) for code in codes) or (name == "a full disk" and 75 not in codes):
        return f"{name}: a launch ended with {codes}: {ranks.told()[-600:]}"
    ranks = _start(ground, work)
    codes = ranks.wait(PATIENCE_S)
    if codes != [0] * RANKS:
        return f"the resume after {name} ended with {codes}: {ranks.told()[-600:]}"
    if left := [path.name for path in (work / "fast").iterdir()]:
        return f"swap files were left behind after {name}: {left}"
    return difference(work / "run", ground.material, ground.whole)


def _wait_for(ranks: Ranks, folder: Path, records: int, more_s: float) -> None:
    """Wait until a run has written `records` records; with 0, wait `more_s` seconds."""
    metrics = folder / "metrics.jsonl"
    while ranks.alive() and (not metrics.exists() or metrics.read_bytes().count(b"\n") < records):
        time.sleep(0.005)
    time.sleep(more_s * (records == 0))


def _start(ground: Ground, work: Path, files: int | None = None) -> Ranks:
    words = [*ground.material.words, *WORDS, "zero.offload_optimizer=nvme", f"zero.nvme_path={work / 'fast'}"]
    arguments = {"words": words, "output": str(work / "run"), "files": files}
    return ground.forks.start("tests.torture.swap:train", arguments, RANKS, (work / "run").with_suffix(".log"))


def train(words: Sequence[str], output: str, files: int | None) -> int:
    """Run a rank whose DeepSpeed swaps tensors far below its usual minimum, on a disk with space for `files` files."""
    from deepspeed.runtime.swap_tensor import optimizer_utils

    from tests.torture import forks
    from train.engine import config

    optimizer_utils.MIN_AIO_BYTES = config.BLOCK_BYTES = 512
    if files is not None:
        _fill(files)
    return forks.train(words, output)


def _fill(files: int) -> None:
    """Make the disk appear full after `files` more files."""
    allocate, reserved = os.posix_fallocate, []

    def full(descriptor: int, offset: int, length: int) -> None:
        reserved.append(length)
        if len(reserved) > files:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        allocate(descriptor, offset, length)

    os.posix_fallocate = full
