"""A file of TOKENS or ORDER is truncated, overwritten, replaced or deleted during a run that reads it; then restored.

At a random time, with one or two ranks; half of the files that are overwritten get their old times back. Passed: every
process ends within PATIENCE_S; a run whose file was truncated or overwritten is either unaffected, or ends with a
documented code and a message that names the file (a rank that was touching the page dies of SIGBUS, with its stack on
record); one whose file was replaced or deleted after it was opened is unaffected; and with the file restored the run
ends like an undisturbed one. A truncated or overwritten validation slice only costs evaluations.
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
from train.records.layout import STACKS

FULL = 50
RANKS = (1, 2)
PATIENCE_S = 30.0
"""Time within which the ranks of a launch must end."""
FILES = (
    *("tokens/train.ids.bin", "tokens/train.ids.bin", "tokens/validation.ids.bin", "tokens/train.starts.bin"),
    *("order/ids.bin", "order/ids.bin", "order/cells.bin", "order/counts.bin", "order/plan.bin"),
)
"""Files to damage; those that every step reads are drawn twice as often."""
WAYS = ("cut", "cut", "overwritten", "overwritten", "overwritten", "replaced", "deleted")
IN_PLACE = ("cut", "overwritten")
LAUNCHES = 3
"""Undisturbed runs of each size, of which the last one is timed."""


def run(count: int, seed: int, work: Path) -> Tally:
    """Damage a file `count` times."""
    tally = Tally("shrink", seed=seed)
    on_each_size(tally, RANKS, count, work, one_run, launches=LAUNCHES)
    return tally


def one_run(ground: Ground, work: Path, seed: int, size: int) -> tuple[str, str | None]:
    """Damage a file during a run and let it end; return how that launch ended and what went wrong."""
    draw, folder = np.random.default_rng(seed), work / "run"
    name, way = str(draw.choice(FILES)), str(draw.choice(WAYS))
    path, kept = work / "material" / name, work / "kept"
    length = int(draw.integers(0, path.stat().st_size))
    after_s = float(draw.uniform(0.0, 1.0)) * ground.run_s
    shutil.copyfile(path, kept)
    ranks = ground.material.start(ground.forks, folder, size)
    try:
        time.sleep(after_s)
        damage(path, way, length)
        codes = ranks.wait(PATIENCE_S)
        output = ranks.told()
    finally:
        ranks.kill()
        ranks.wait(5)
        restore(path, kept, way)
    problem = ending_problem(codes, output, name, way, folder)
    problem = problem or ground.material.finish(ground.forks, folder, size)
    if problem is None:
        problem = (other_weights if failed_stages(folder) else difference)(folder, ground.material, ground.whole)
    fault = f"{name} {way} at {length} bytes after {after_s:.2f} s on {size} ranks"
    return f"{way} {codes}", problem and f"{fault}: {problem}: {output[-600:]}"


def damage(path: Path, way: str, length: int) -> None:
    """Truncate or overwrite a file in place, replace it by another, or remove it."""
    if way == "cut":
        os.truncate(path, length)
    elif way == "overwritten":
        before = path.stat()
        with open(path, "r+b") as file:
            file.write(bytes(255 - byte for byte in path.read_bytes()))
        if length % 2:
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    elif way == "replaced":
        other = path.with_suffix(".other")
        other.write_bytes(bytes(path.stat().st_size))
        os.replace(other, path)
    else:
        path.unlink()


def restore(path: Path, kept: Path, way: str) -> None:
    """Restore the file; in place if it was damaged so, because this process has it open too."""
    if way in IN_PLACE:
        with open(path, "r+b") as file:
            file.write(kept.read_bytes())
    else:
        os.replace(kept, path)


def ending_problem(codes: list[int | None], output: str, name: str, way: str, folder: Path) -> str | None:
    """Return what is wrong with the end of the launch whose file was damaged."""
    if None in codes:
        return f"a rank still runs after {PATIENCE_S:g} s: {codes}"
    if set(codes) == {DONE}:
        return None
    if way not in IN_PLACE and set(codes) != {REFUSED}:  # REFUSED: the file was not open yet
        return f"a file that was {way} ended the run: {codes}"
    stacks = "".join(path.read_text() for path in (folder / STACKS).glob("*.txt")) if folder.is_dir() else ""
    if -signal.SIGBUS in codes:
        return None if "Bus error" in stacks + output else f"a rank died without a stack: {codes}"
    if not set(codes) <= {DONE, UNREADABLE, REFUSED, FAILED} or set(codes) <= {DONE, FAILED}:
        return f"the ranks ended with {codes}"
    return None if name in output else f"no message names {name}: {codes}"
