"""A rank runs out of memory: on the host, on its device, or because the system gives no more; then go on.

A case is a fault point, a rank and one of ACTIONS: MemoryError, torch.OutOfMemoryError, or a limit of the addresses
(RLIMIT_AS) set at that point, which meets whatever comes next. Passed: every rank ends within PATIENCE_S, the one that
was struck with the documented code and a message that says what a rank needs and which setting needs less; the newest
checkpoint is whole and nothing else has a checkpoint's name; and the next life ends as if nothing had happened. In an
evaluation it costs that evaluation alone, which the record says and `pdpc evaluate` makes up.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.torture.campaign import Tally
from tests.torture.runs import Ending, Ground, Material, difference, on_each_size
from train import checkpoint
from train.checkpoint.find import verified
from train.distributed.exit_codes import DONE, FAILED, OUT_OF_MEMORY
from train.evaluation.evaluate import FAILED as FAILED_PARTS
from train.resume.runfolder import CHECKPOINTS
from train.tracking import read_metrics

FULL = 50
RANKS = (1, 2)
PATIENCE_S = 30.0
"""Longest time in which the ranks of a life end; an undisturbed one takes a second or two."""
EVALUATION = "heldout.batch"
PLACES = {
    "engine.weights": 1,
    "engine.states": 1,
    "loop.before_step": 12,
    "loop.after_forward": 12,
    "loop.after_backward": 12,
    "loop.after_step": 12,
    "checkpoint.before_write": 4,
    "checkpoint.in_shard": 4,
    "checkpoint.after_shard": 4,
    "checkpoint.before_manifest": 4,
    EVALUATION: 2,
}
"""Fault points, and how often each is passed at least in a life."""
ACTIONS = ("memory", "device_memory", "no_more")
LIMITED_CODES = (DONE, OUT_OF_MEMORY, FAILED)
"""How a rank may end that is given no more: it may not need any, and a thread that cannot be started is no memory."""
C_LIBRARY_CODE = 127
C_LIBRARY_SAYS = "cannot allocate memory for thread-local data: ABORT"
"""How the C library ends a process whose thread has no room for its own variables, without asking anybody."""


def run(count: int, seed: int, work: Path) -> Tally:
    """Let a rank run out of memory `count` times."""
    tally = Tally("oom", seed=seed)
    on_each_size(tally, RANKS, count, work, one_run, lives=1)
    return tally


def one_run(ground: Ground, work: Path, seed: int, size: int) -> tuple[str, str | None]:
    """Strike a run once and let it end; return how the struck life ended and what went wrong."""
    draw, folder = np.random.default_rng(seed), work / "run"
    place, action = str(draw.choice(list(PLACES))), str(draw.choice(ACTIONS))
    rank = int(draw.integers(size)) if place != "checkpoint.before_manifest" else 0
    fault = f"{place}:rank={rank}:nth={draw.integers(1, PLACES[place] + 1)}:{action}"
    ranks = ground.material.start(ground.forks, folder, size, fault=fault)
    codes = ranks.wait(PATIENCE_S)
    told = ranks.told()
    ranks.kill()
    ranks.wait(5)
    problem = ending_problem(codes, told, rank, place, action) or torn(folder)
    problem = problem or ground.material.finish(ground.forks, folder, size)
    if problem is None:
        failed = failed_stages(folder)
        if place == EVALUATION and action != "no_more" and failed != 1:
            problem = f"{failed} stages are marked failed"
        else:
            problem = (other_weights if failed else difference)(folder, ground.material, ground.whole)
    where = "in an evaluation " if place == EVALUATION else ""
    return f"{action} {where}{codes}", problem and f"after {fault}: {problem}: {told[-600:]}"


def ending_problem(codes: list[int | None], told: str, rank: int, place: str, action: str) -> str | None:
    """Tell what is wrong with the end of the life that was struck."""
    if None in codes:
        return f"a rank is there after {PATIENCE_S:g} s: {codes}"
    if action == "no_more":
        explained = (*LIMITED_CODES, C_LIBRARY_CODE) if C_LIBRARY_SAYS in told else LIMITED_CODES
        fine = all(code in explained for code in codes)
        return None if fine else f"the ranks ended with {codes}"
    if place == EVALUATION:
        return None if set(codes) == {DONE} else f"an evaluation ended the run: {codes}"
    if codes[rank] != OUT_OF_MEMORY or any(code not in (OUT_OF_MEMORY, FAILED) for code in codes):
        return f"the ranks ended with {codes}"
    for words in ("out of memory for", "A rank needs at least", "Run again with"):
        alone = place.startswith("engine.") and len(codes) == 1 and words == "Run again with"
        if words not in told and not alone:  # a rank alone has nothing to share its states with
            return f"the message lacks {words!r}"
    return None


def torn(folder: Path) -> str | None:
    """Tell whether a folder has a checkpoint's name that is none."""
    for found in checkpoint.candidates(folder / CHECKPOINTS):
        try:
            verified(found)
        except ValueError as error:
            return f"a torn checkpoint has its name: {error}"
    return None


def failed_stages(folder: Path) -> int:
    """Return how many stages are marked failed."""
    return sum(FAILED_PARTS in record for record in read_metrics(folder / "metrics.jsonl"))


def other_weights(folder: Path, _material: Material, whole: Ending) -> str | None:
    """Tell in what a run that lost an evaluation differs from an undisturbed one otherwise."""
    ending = Ending.of(folder)
    same = (ending.consumed, ending.weights, ending.losses()) == (whole.consumed, whole.weights, whole.losses())
    return None if same else "what was consumed, the weights or the losses differ"
