"""Batches: this rank's share of each global batch of the order, in micro-batches, and a check of what was consumed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curriculum.order.consumed import joined, stretch_hash
from curriculum.order.order import Order
from curriculum.order.sampler import CurriculumSampler
from curriculum.tokens.samples import Samples
from train.distributed.world import World


class MicroBatches(Protocol):
    """The part of an objective that batches need (train/objectives/objective.py)."""

    def micro_batch(self, ids: Sequence[int], size: int) -> Any:
        """Return `size` samples as the input of one forward pass."""

    def count(self, samples: int, labels: int) -> int:
        """Return the divisor of a global batch's loss."""


@dataclass(frozen=True)
class Batch:
    """One step's data on one rank, on the host."""

    step: int
    """Step number, from 0."""
    ids: list[int]
    """This rank's sample ids, in order."""
    source_N: Tensor
    """Source of each of this rank's samples, int64."""
    bucket_N: Tensor
    """Bucket of each of them, int64."""
    tokens_N: Tensor
    """Real labels (no padding) in each of them, int64."""
    count_N: Tensor
    """Part of each of them in the divisor of the loss (`Objective.count`), int64."""
    micro_batches: list[Any]
    """The samples in order, in the objective's format."""
    global_tokens: int
    """Real labels in the global batch, on all ranks."""
    global_count: int
    """Divisor of the global batch's loss (`Objective.count`)."""
    own_hash: int
    """Consumed hash of this rank's ids at their positions."""
    global_hash: int
    """Consumed hash of the global batch, from this rank's copy of the order."""


def batches(
    order: Order, tokens: Samples, world: World, micro_batch_size: int, step: int, objective: MicroBatches
) -> Iterator[Batch]:
    """Yield this rank's batches from `step` on. Every rank knows the global batch without communication.

    Everything about a step's data that needs no forward pass is computed here, while the previous step runs
    (curriculum/work/threads.py).
    """
    cursor = order.cursor_after(step)
    sampler = CurriculumSampler(order, order.batch_size, world.rank, world.size, cursor, micro_batch_size)
    lists = iter(sampler)
    while micro_ids := list(islice(lists, sampler.split.accumulation)):
        micro_ids += [[]] * (sampler.split.accumulation - len(micro_ids))  # every step has as many forward passes
        position = int(sampler.split.edges(cursor, sampler.cursor, world.rank)[0])
        ids = [sample for part in micro_ids for sample in part]
        ids_N, global_ids = np.array(ids, dtype=np.int64), order[cursor : sampler.cursor]
        global_tokens = int(tokens.real_tokens(global_ids).sum())
        tokens_N = tokens.real_tokens(ids_N)
        yield Batch(
            step,
            ids,
            _int64(tokens.source_of(ids_N)),
            _int64(order.bucket[position : position + len(ids)]),
            _int64(tokens_N),
            torch.tensor([objective.count(1, int(labels)) for labels in tokens_N], dtype=torch.int64),
            [objective.micro_batch(part, micro_batch_size) for part in micro_ids],
            global_tokens,
            objective.count(len(global_ids), global_tokens),
            stretch_hash(ids_N, position),
            stretch_hash(global_ids, cursor),
        )
        step, cursor = step + 1, sampler.cursor


def _int64(values: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(values.astype(np.int64))


def check_consumed(world: World, own: int, expected: int, order: Order) -> None:
    """Raise ValueError on every rank unless the ranks together consumed what every rank's copy of the order says.

    `own`: hash of what this rank consumed; `expected`: hash of what all ranks should have. One small all-reduce.
    """
    halves = torch.tensor([own >> 32, own & 0xFFFFFFFF], dtype=torch.int64, device=world.device)
    high, low = world.all_sum(halves).tolist()
    if not world.agree(joined(high << 32, low) == expected):
        raise ValueError(
            f"the samples consumed by all ranks do not match order {order.folder} ({order.fingerprint}): they read "
            "different copies of it, or a damaged one; give every node the same folder (check it with pdpc inspect "
            f"{order.folder} verify=true) and run the same command again to resume from the last checkpoint"
        )
