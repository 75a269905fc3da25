"""The branches of a probe: what each reads, and the folder and command of the run that it is.

A branch's RUN begins as the trunk was at the checkpoint: its checkpoint, its records up to there and its run.json. So
an ordinary `pdpc train` resumes it, with an order that goes on differently.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from curriculum.artifact.create import publish
from curriculum.artifact.drafts import draft_of, remove_abandoned
from curriculum.artifact.files import write_text
from launch.probe.trunk import Trunk
from launch.study.file import words_of
from launch.study.steps import Step
from train.records.layout import CHECKPOINTS, RUN
from train.records.run_json import as_text, checksum_of

CONSTANT = {
    "schedule.name": "constant",
    "schedule.final_share": 1.0,
    "schedule.warmup_share": None,
    "schedule.warmup_steps": 0,
    "schedule.warmup_tokens": None,
    "schedule.decay_share": None,
    "schedule.decay": None,
}
"""The schedule of a branch: the trunk's rate at the checkpoint."""
ONE_CHECKPOINT = {
    "checkpoints.keep_last": 1,
    "checkpoints.keep_every": None,
    "checkpoints.keep_stages": False,
    "checkpoints.save_every": None,
}


@dataclass(frozen=True)
class Branch:
    """A short run from a checkpoint of the trunk."""

    name: str
    from_step: int
    shares: tuple[float, ...]
    """Share of each bucket in every batch."""
    seed: int


def design(
    steps: Sequence[int], shares: Sequence[float], names: Sequence[str], sizes_K: NDArray[np.float64], seeds: int
) -> list[Branch]:
    """Return the branches: at every step, every emphasis (`emphases`) with every seed."""
    return [
        Branch(f"step_{step:08d}_{word}_{seed}", step, row, seed)
        for step in steps
        for word, row in emphases(shares, names, sizes_K).items()
        for seed in range(seeds)
    ]


def emphases(
    shares: Sequence[float], names: Sequence[str], sizes_K: NDArray[np.float64]
) -> dict[str, tuple[float, ...]]:
    """Return the mixtures of K buckets that are measured, by name: one bucket has a share, the others the rest by size.

    With two buckets, the high one has each share; with more, every bucket in turn. `sizes_K` sum to 1.
    """
    found: dict[str, tuple[float, ...]] = {}
    for bucket in range(len(names)) if len(names) > 2 else [1]:
        for share in sorted(set(shares)):
            row_K = (1 - share) * sizes_K / (1 - sizes_K[bucket])
            row_K[bucket] = share
            row = tuple(float(round(value, 9)) for value in row_K)
            if row not in found.values():
                found[f"{names[bucket]}_{share:g}"] = row
    return found


def order_of(output: Path, branch: Branch) -> Path:
    """Return the ORDER folder of a branch."""
    return output / "orders" / branch.name


def run_of(output: Path, branch: Branch) -> Path:
    """Return the RUN folder of a branch."""
    return output / "runs" / branch.name


def step_of(branch: Branch, trunk: Trunk, words: Sequence[str], rate: float, width: int, output: Path) -> Step:
    """Return the command of a branch: the trunk's settings, at the rate that it had at the checkpoint."""
    own = {
        "output": str(run_of(output, branch)),
        "arm": branch.name,
        "data.order": str(order_of(output, branch)),
        "data.tokens": trunk.tokens,
        **({"data.scores": trunk.scores} if trunk.scores else {}),
        "optimizer.lr": rate,
        **CONSTANT,
        **ONE_CHECKPOINT,
        "tracker.name": "none",
        "accept_change": ["arm", "optimizer.lr", *CONSTANT],
    }
    taken = [word for word in words if word.partition("=")[0] not in own]
    plain = {key: value.replace("$", "$$") if isinstance(value, str) else value for key, value in own.items()}
    return Step(branch.name, "train", [*taken, *words_of(plain, {})], run_of(output, branch), [], width)


def begin(branch: Branch, trunk: Trunk, output: Path) -> None:
    """Make the RUN of a branch as the trunk was at the checkpoint, unless it exists. Checkpoint files are hard links
    where the file system has them, else copies."""
    folder = run_of(output, branch)
    if folder.exists():
        return
    source = trunk.checkpoints[branch.from_step]
    sealed = trunk.checkpoint(branch.from_step).facts.get("records", {})
    folder.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(folder.parent, folder.name)
    draft = draft_of(folder)
    try:
        there = draft / CHECKPOINTS / source.name
        there.mkdir(parents=True)
        for path in sorted(source.iterdir()):
            _link(path, there / path.name)
        for name, entry in sealed.items():
            (draft / name).parent.mkdir(parents=True, exist_ok=True)
            _copy_start(trunk.folder / name, draft / name, int(entry["bytes"]))
        facts = {key: value for key, value in trunk.facts.items() if key not in ("cursor", "consumed_hash", "checksum")}
        facts["lives"] = [life for life in facts.get("lives", []) if life["step"] <= branch.from_step]
        facts["status"] = f"branched from {trunk.folder} at step {branch.from_step}"
        facts = json.loads(json.dumps(facts))
        write_text(draft / RUN, as_text({**facts, "checksum": checksum_of(facts)}))
        publish(draft, folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:
        _copy_start(path, target, path.stat().st_size)


def _copy_start(path: Path, target: Path, size: int) -> None:
    """Copy the first `size` bytes of a file; of one that is shorter or missing, what there is."""
    with open(target, "xb") as new:
        if path.is_file():
            with open(path, "rb") as old:
                while size > 0 and (block := old.read(min(size, 8 << 20))):
                    new.write(block)
                    size -= len(block)
