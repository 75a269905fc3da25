"""A file of TOKENS or ORDER is cut, replaced or deleted under a run that reads it; put it back and go on.

At a random instant, for one or two ranks. Passed: every process ends within PATIENCE_S; a run whose file was cut
trained on as if nothing had happened, or ended with a documented code and a message that names the file (a rank that
was just touching the page is ended by SIGBUS, with its stack on record); one whose file was replaced or deleted after
it was opened is not harmed; and with the file back the run ends as if nothing had happened. A cut validation slice
costs evaluations alone.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np

from tests.torture.campaign import Tally
from tests.torture.oom import failed_stages, other_weights
from tests.torture.runs import Ground, difference, on_each_size
from train.distributed.exit_codes import DONE, FAILED, REFUSED, UNREADABLE
from train.distributed.watchdog import STACKS

FULL = 50
RANKS = (1, 2)
PATIENCE_S = 30.0
"""Longest time in which the ranks of a life end."""
FILES = (
    *("tokens/train.ids.bin", "tokens/train.ids.bin", "tokens/validation.ids.bin", "tokens/train.starts.bin"),
    *("order/ids.bin", "order/ids.bin", "order/cells.bin", "order/counts.bin", "order/plan.bin"),
)
"""What is hurt; the files that every step reads are drawn twice as often."""
WAYS = ("cut", "cut", "cut", "replaced", "deleted")


def run(count: int, seed: int, work: Path) -> Tally:
    """Hurt a file `count` times."""
    tally = Tally("shrink", seed=seed)
    on_each_size(tally, RANKS, count, work, one_run, lives=3)
    return tally


def one_run(ground: Ground, work: Path, seed: int, size: int) -> tuple[str, str | None]:
    """Hurt a file under a run and let it end; return how the hurt life ended and what went wrong."""
    draw, folder = np.random.default_rng(seed), work / "run"
    name, way = str(draw.choice(FILES)), str(draw.choice(WAYS))
    path, kept = work / "material" / name, work / "kept"
    length = int(draw.integers(0, path.stat().st_size))
    after_s = float(draw.uniform(0.0, 1.0)) * ground.life_s
    shutil.copyfile(path, kept)
    ranks = ground.material.start(ground.forks, folder, size)
    try:
        time.sleep(after_s)
        hurt(path, way, length)
        codes = ranks.wait(PATIENCE_S)
        told = ranks.told()
    finally:
        ranks.kill()
        ranks.wait(5)
        put_back(path, kept, way)
    problem = ending_problem(codes, told, name, way, folder)
    problem = problem or ground.material.finish(ground.forks, folder, size)
    if problem is None:
        problem = (other_weights if failed_stages(folder) else difference)(folder, ground.material, ground.whole)
    what = f"{name} {way} at {length} bytes after {after_s:.2f} s on {size} ranks"
    return f"{way} {codes}", problem and f"{what}: {problem}: {told[-600:]}"


def hurt(path: Path, way: str, length: int) -> None:
    """Cut a file in place, give its name to other bytes, or remove it."""
    if way == "cut":
        os.truncate(path, length)
    elif way == "replaced":
        beside = path.with_suffix(".other")
        beside.write_bytes(bytes(path.stat().st_size))
        os.replace(beside, path)
    else:
        path.unlink()


def put_back(path: Path, kept: Path, way: str) -> None:
    """Make the file whole again: the very file where it was cut, for this process has it open too."""
    if way == "cut":
        with open(path, "r+b") as file:
            file.write(kept.read_bytes())
    else:
        os.replace(kept, path)


def ending_problem(codes: list[int | None], told: str, name: str, way: str, folder: Path) -> str | None:
    """Tell what is wrong with the end of the life whose file was hurt."""
    if None in codes:
        return f"a rank is there after {PATIENCE_S:g} s: {codes}"
    if set(codes) == {DONE}:
        return None
    if way != "cut" and set(codes) != {REFUSED}:  # refused: it was not opened yet
        return f"a file that was {way} did harm: {codes}"
    stacks = "".join(path.read_text() for path in (folder / STACKS).glob("*.txt")) if folder.is_dir() else ""
    if -signal.SIGBUS in codes:
        return None if "Bus error" in stacks + told else f"a rank died without a trace: {codes}"
    if not set(codes) <= {DONE, UNREADABLE, REFUSED, FAILED} or set(codes) <= {DONE, FAILED}:
        return f"the ranks ended with {codes}"
    return None if name in told else f"no message names {name}: {codes}"
