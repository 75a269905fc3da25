"""A rank runs out of memory: on the host, on its device, or by a system limit; then resume.

A case is a fault point, a rank and one of ACTIONS: MemoryError, torch.OutOfMemoryError, or a limit on the address space
(RLIMIT_AS) set at that point, which hits whatever allocates next. Passed: every rank ends within PATIENCE_S, the struck
one with the documented code and a message that says how much memory a rank needs and which setting needs less; the
newest checkpoint is intact and nothing else has the name of a checkpoint; and the next launch ends like an undisturbed
run. In an evaluation only that evaluation is lost, which is recorded and can be repeated with `pdpc evaluate`.
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
from train.records.layout import CHECKPOINTS
from train.tracking import read_metrics

FULL = 50
RANKS = (1, 2)
PATIENCE_S = 30.0
"""Time within which the ranks of a launch must end; an undisturbed one takes a second or two."""
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
"""Fault points, and how often a launch reaches each at least."""
ACTIONS = ("memory", "device_memory", "no_more")
LIMITED_CODES = (DONE, OUT_OF_MEMORY, FAILED)
"""Exit codes under an RLIMIT_AS: it may need no more memory, and a failed start of a thread is not an OOM error."""
C_LIBRARY_CODE = 127
C_LIBRARY_SAYS = "cannot allocate memory for thread-local data: ABORT"
"""The C library aborts a process that has no memory for the variables of a new thread."""


def run(count: int, seed: int, work: Path) -> Tally:
    """Make a rank run out of memory `count` times."""
    tally = Tally("oom", seed=seed)
    on_each_size(tally, RANKS, count, work, one_run, launches=1)
    return tally


def one_run(ground: Ground, work: Path, seed: int, size: int) -> tuple[str, str | None]:
    """Inject one fault into a run and let it end; return how that launch ended and what went wrong."""
    draw, folder = np.random.default_rng(seed), work / "run"
    place, action = str(draw.choice(list(PLACES))), str(draw.choice(ACTIONS))
    rank = int(draw.integers(size)) if place != "checkpoint.before_manifest" else 0
    fault = f"{place}:rank={rank}:nth={draw.integers(1, PLACES[place] + 1)}:{action}"
    ranks = ground.material.start(ground.forks, folder, size, fault=fault)
    codes = ranks.wait(PATIENCE_S)
    output = ranks.told()
    ranks.kill()
    ranks.wait(5)
    problem = ending_problem(codes, output, rank, place, action) or torn(folder)
    problem = problem or ground.material.finish(ground.forks, folder, size)
    if problem is None:
        failed = failed_stages(folder)
        if place == EVALUATION and action != "no_more" and failed != 1:
            problem = f"{failed} stages are marked failed"
        else:
            problem = (other_weights if failed else difference)(folder, ground.material, ground.whole)
    where = "in an evaluation " if place == EVALUATION else ""
    return f"{action} {where}{codes}", problem and f"after {fault}: {problem}: {output[-600:]}"


def ending_problem(codes: list[int | None], output: str, rank: int, place: str, action: str) -> str | None:
    """Return what is wrong with the end of the struck launch."""
    if None in codes:
        return f"a rank still runs after {PATIENCE_S:g} s: {codes}"
    if action == "no_more":
        explained = (*LIMITED_CODES, C_LIBRARY_CODE) if C_LIBRARY_SAYS in output else LIMITED_CODES
        fine = all(code in explained for code in codes)
        return None if fine else f"the ranks ended with {codes}"
    if place == EVALUATION:
        return None if set(codes) == {DONE} else f"an evaluation ended the run: {codes}"
    if codes[rank] != OUT_OF_MEMORY or any(code not in (OUT_OF_MEMORY, FAILED) for code in codes):
        return f"the ranks ended with {codes}"
    for words in ("out of memory for", "A rank needs at least", "Run again with"):
        single = place.startswith("engine.") and len(codes) == 1 and words == "Run again with"
        if words not in output and not single:  # a single rank cannot shard its optimizer states
            return f"the message lacks {words!r}"
    return None


def torn(folder: Path) -> str | None:
    """Return a message if a folder has the name of a checkpoint but is not a complete one."""
    for found in checkpoint.candidates(folder / CHECKPOINTS):
        try:
            verified(found)
        except ValueError as error:
            return f"an incomplete checkpoint has a final name: {error}"
    return None


def failed_stages(folder: Path) -> int:
    """Return the number of stages marked as failed."""
    return sum(FAILED_PARTS in record for record in read_metrics(folder / "metrics.jsonl"))


def other_weights(folder: Path, _material: Material, whole: Ending) -> str | None:
    """Return how a run that lost an evaluation otherwise differs from an undisturbed one."""
    ending = Ending.of(folder)
    same = (ending.consumed, ending.weights, ending.losses()) == (whole.consumed, whole.weights, whole.losses())
    return None if same else "the consumed samples, the weights or the losses differ"
