"""The branches of a probe: what each reads, and the folder and command of the run that it is.

A branch is an ordinary `pdpc train branch_of=TRUNK`: it begins as the trunk was at the checkpoint, with an order that
differs from there on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from launch.probe.trunk import Trunk
from launch.study.steps import Step
from launch.study.words import words_of

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
        "branch_of": str(trunk.folder),
        "accept_change": ["optimizer.lr", *CONSTANT],
    }
    taken = [word for word in words if word.partition("=")[0] not in own]
    plain = {key: value.replace("$", "$$") if isinstance(value, str) else value for key, value in own.items()}
    return Step(branch.name, "train", [*taken, *words_of(plain, {})], run_of(output, branch), [], width)
