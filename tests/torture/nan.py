"""NaN in a loss, a gradient or a weight on one rank, at every ZeRO stage and precision (T8).

Passed: every rank skipped the same step, weights and moments were equal bit for bit before and after it, its samples
are on record, and all other steps changed the weights. A poisoned weight costs one step if it is restored from a
float32 master weight; if it is the master weight itself, the run stops with code 70 and no checkpoint contains it. An
attempt is an injection; one run takes up to INJECTIONS of them, and its seed replays them all.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from tests.torture.campaign import Tally
from tests.torture.forks import Forks, served
from tests.torture.forks import train as rank_of
from tests.torture.runs import PATIENCE_S, Material, forget
from train.distributed.exit_codes import GUARD_STOPPED
from train.hooks.hook import Hook
from train.records.skipped import SKIPPED

FULL = 200
INJECTIONS = 6
RANKS = 2
STOP_AFTER = 4


def run(count: int, seed: int, work: Path) -> Tally:
    """Inject NaN `count` times."""
    tally, draw, case = Tally("nan", seed=seed), np.random.default_rng(seed), seed
    material = Material.make(work / "material")
    with served() as forks:
        while tally.attempts < count:
            injected, problem = one_run(forks, material, work / "run", case)
            for _ in range(min(injected, count - tally.attempts)):
                tally.add(case, problem)
            forget(work / "run")
            case = int(draw.integers(0, 2**31))
    return tally


def one_run(forks: Forks, material: Material, folder: Path, seed: int) -> tuple[int, str | None]:
    """Inject NaN into a run; return how often, and what went wrong."""
    draw, steps, parts = np.random.default_rng(seed), material.order.steps, 2
    stage, precision = int(draw.integers(0, 4)), str(draw.choice(["fp32", "bf16"]))
    words = (f"zero.stage={stage}", f"precision={precision}")
    weight = bool(draw.random() < 0.15)
    lasting = weight and stage == 0 and precision == "fp32"
    if weight:
        first = int(draw.integers(1, steps - STOP_AFTER))
        poisoned = list(range(first, first + STOP_AFTER)) if lasting else [first]
        faults = [f"guard.weight:rank={draw.integers(0, RANKS)}:nth={first + 1}"]
    else:
        poisoned = sorted(draw.choice(steps, int(draw.integers(1, INJECTIONS + 1)), replace=False).tolist())
        faults = []
        for step in poisoned:
            rank, loss = draw.integers(0, RANKS), draw.random() < 0.5
            nth = step * parts + draw.integers(1, parts + 1) if loss else step + 1
            faults.append(f"guard.{'loss' if loss else 'gradient'}:rank={rank}:nth={nth}")
    arguments: dict[str, Any] = {
        "words": [*material.words, *words, f"guards.stop_after={STOP_AFTER if lasting else steps}"],
        "output": str(folder),
    }
    log = folder.with_suffix(".log")
    ranks = forks.start("tests.torture.nan:watched", arguments, RANKS, log, {"PDPC_FAULT": ",".join(faults)})
    codes = ranks.wait(PATIENCE_S)
    ranks.kill()
    injected = 1 if lasting else len(poisoned)
    expected = GUARD_STOPPED if lasting else 0
    about = f"{' '.join(words)} {','.join(faults)}"
    if codes != [expected] * RANKS:
        return injected, f"{about}: ended with {codes}, not {expected}: {ranks.told()[-600:]}"
    if lasting:  # the poisoned weight is the master weight: a checkpoint may be due before the guard stops the run
        made = len((folder / SKIPPED).read_text().splitlines())
        poisoned = poisoned[: max(1, made)]
    problem = _wrong(folder, material, poisoned, steps if not lasting else poisoned[-1] + 1)
    return injected, problem and f"{about}: {problem}"


def _wrong(folder: Path, material: Material, poisoned: list[int], steps: int) -> str | None:
    entries = [json.loads(line) for line in (folder / SKIPPED).read_text().splitlines()]
    if [entry["step"] for entry in entries] != [step + 1 for step in poisoned]:
        return f"skipped were {[entry['step'] - 1 for entry in entries]}, not {poisoned}"
    size = material.order.batch_size
    for entry in entries:
        if entry["samples"] != material.order[(entry["step"] - 1) * size : entry["step"] * size].tolist():
            return f"the record of step {entry['step'] - 1} has other samples"
    for rank in range(RANKS):
        rows = [json.loads(line) for line in (folder / f"digests_{rank}.jsonl").read_text().splitlines()]
        still = [step for step, (before, after) in enumerate(rows) if before == after]
        if len(rows) != steps or still != poisoned:
            return f"on rank {rank} the weights did not change at {still} of {len(rows)} steps, not at {poisoned}"
    return None


class Digests(Hook):
    """Writes the digest of this rank's weights and moments before and after every step."""

    name = "digests"

    def __init__(self, folder: Path) -> None:
        self._file = open(folder / f"digests_{os.environ['RANK']}.jsonl", "a")  # noqa: SIM115
        self._before = ""

    def pre_step(self, loop: Any, batch: Any) -> None:
        """Digest the state before the step."""
        self._before = self._digest(loop.engine)

    def post_step(self, loop: Any, batch: Any) -> None:
        """Digest the state after the step."""
        self._file.write(json.dumps([self._before, self._digest(loop.engine)]) + "\n")
        self._file.flush()

    def _digest(self, engine: Any) -> str:
        import xxhash

        digest = xxhash.xxh3_128()
        for fragment in engine.fragments():
            for tensor in fragment.tensors.values():
                digest.update(tensor.detach().contiguous().numpy().tobytes())
        return digest.hexdigest()


def watched(words: list[str], output: str) -> int:
    """Run a rank with `Digests` before all other hooks except the drills, which poison a weight before a step."""
    from train import run as entry

    others = entry.hooks_of

    def hooks_of(settings: Any) -> list[Hook]:
        drills, *rest = others(settings)
        return [drills, Digests(Path(output)), *rest]

    entry.hooks_of = hooks_of
    return rank_of(words, output)
