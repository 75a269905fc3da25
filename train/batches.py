"""Batches: this rank's part of the order's next global batch, in micro-batches, and the record of what was consumed."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from curriculum.artifact.manifest import sync
from curriculum.order.consumed import joined, stretch_hash
from curriculum.order.order import Order
from curriculum.order.sampler import CurriculumSampler
from curriculum.order.split import cursor_after
from curriculum.tokens.tokens import Tokens
from train.distributed.world import World
from train.records.consumption import CONSUMED, NO_SAMPLE


class MicroBatches(Protocol):
    """What batches need of an objective (train/objectives/objective.py)."""

    def micro_batch(self, ids: Sequence[int], size: int) -> Any:
        """Return `size` samples as a forward pass takes them."""

    def count(self, samples: int, labels: int) -> int:
        """Return what the loss of a global batch is divided by."""


@dataclass(frozen=True)
class Batch:
    """One step's data on one rank, on the host."""

    step: int
    """Number of the step, from 0."""
    ids: list[int]
    """This rank's sample ids, in order."""
    source_N: Tensor
    """Source of each of this rank's samples, int64."""
    bucket_N: Tensor
    """Bucket of each, int64."""
    tokens_N: Tensor
    """Real labels of each, int64."""
    micro_batches: list[Any]
    """The samples, in order, as the objective reads them."""
    global_tokens: int
    """Real labels of the whole global batch, on all ranks."""
    global_count: int
    """What the loss of the whole global batch is divided by (`Objective.count`)."""
    own_hash: int
    """Consumed hash of this rank's ids at their positions."""
    global_hash: int
    """Consumed hash of the whole global batch, from this rank's copy of the order."""


def batches(
    order: Order, tokens: Tokens, world: World, micro_batch_size: int, step: int, objective: MicroBatches
) -> Iterator[Batch]:
    """Yield this rank's batches from `step` on. Every rank knows the global batch without asking the others.

    All that a step can know of its data before it computes is made here, while the step before computes
    (curriculum/work/threads.py).
    """
    cursor = cursor_after(step, order.batch_size, len(order))
    sampler = CurriculumSampler(order, order.batch_size, world.rank, world.size, cursor, micro_batch_size)
    lists = iter(sampler)
    while micro_ids := list(islice(lists, sampler.split.accumulation)):
        position = int(sampler.split.edges(cursor, sampler.cursor, world.rank)[0])
        ids = [sample for part in micro_ids for sample in part]
        ids_N, global_ids = np.array(ids, dtype=np.int64), order[cursor : sampler.cursor]
        global_tokens = int(tokens.real_tokens(global_ids).sum())
        yield Batch(
            step,
            ids,
            _int64(tokens.source_of(ids_N)),
            _int64(order.bucket[position : position + len(ids)]),
            _int64(tokens.real_tokens(ids_N)),
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
    """Raise ValueError on every rank unless the ranks together consumed what each of their copies of the order says.

    `own`: hash of what this rank consumed; `expected`: of what all should have. One small sum over the ranks.
    """
    halves = torch.tensor([own >> 32, own & 0xFFFFFFFF], dtype=torch.int64, device=world.device)
    high, low = world.all_sum(halves).tolist()
    if not world.agree(joined(high << 32, low) == expected):
        raise ValueError(
            f"the ranks together did not consume what order {order.folder} ({order.fingerprint}) says: they read "
            "different copies of it, or a damaged one; give every node the same folder (pdpc inspect verify=true) "
            "and run again: the run goes on from its last checkpoint"
        )


class ConsumedFile:
    """What one rank consumed: rows of int64 [step, ids...], `NO_SAMPLE` filling short rows.

    `hash` is the consumed hash of this rank's samples in this life; rank 0's begins with what earlier lives consumed:
    the sum over the ranks is the run's.
    """

    def __init__(self, folder: Path, world: World, width: int, consumed_hash: int) -> None:
        self.width = width
        self.hash = consumed_hash if world.first else 0
        path = folder / CONSUMED / f"world_{world.size:05d}_rank_{world.rank:05d}_width_{width}.bin"
        self._file = open(path, "ab")  # noqa: SIM115  # held until close()

    def append(self, batch: Batch) -> None:
        """Record a step's samples."""
        row = np.full(1 + self.width, NO_SAMPLE, dtype=np.int64)
        row[0] = batch.step
        row[1 : 1 + len(batch.ids)] = batch.ids
        self._file.write(row.tobytes())
        self.hash = joined(self.hash, batch.own_hash)

    def sync(self) -> None:
        """Make the record durable."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def forget_consumed(folder: Path, step: int) -> None:
    """Drop the record of `step` and what followed: a resumed run consumes it again. Call once, before ranks append."""
    (folder / CONSUMED).mkdir(exist_ok=True)
    for path in (folder / CONSUMED).glob("world_*.bin"):
        rows = _rows(path, int(path.stem.split("_")[5]))
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(rows[rows[:, 0] < step].tobytes())
        sync(temporary)
        os.replace(temporary, path)


def _rows(path: Path, width: int) -> NDArray[np.int64]:
    """Return the whole rows of a record [n, 1 + width]; a torn last row is left out."""
    flat = np.fromfile(path, dtype=np.int64)
    whole = len(flat) // (1 + width) * (1 + width)
    return flat[:whole].reshape(-1, 1 + width)


def read_consumed(folder: Path) -> NDArray[np.int64]:
    """Return the sample ids that a run consumed, step by step and rank by rank, [n].

    Raises ValueError when a step was recorded by more than one set of ranks.
    """
    parts: dict[tuple[int, int], NDArray[np.int64]] = {}
    for path in sorted((folder / CONSUMED).glob("world_*.bin")):
        fields = path.stem.split("_")
        rank, width = int(fields[3]), int(fields[5])
        for row in _rows(path, width):
            key = (int(row[0]), rank)
            if key in parts:
                raise ValueError(
                    f"{path} records step {key[0]} of rank {rank}, which another file records too: "
                    "the run folder was changed"
                )
            parts[key] = row[1:][row[1:] != NO_SAMPLE]
    return np.concatenate([parts[key] for key in sorted(parts)]) if parts else np.empty(0, dtype=np.int64)
