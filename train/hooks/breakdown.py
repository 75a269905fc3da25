"""Loss by source and by bucket, live: which of the samples that a step reads cost how much.

Shapes: B samples of a micro-batch, G groups (the sources, then the buckets), R ranks; 2 for nats and labels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from curriculum.split import Split
from train.hooks.hook import Hook

if TYPE_CHECKING:
    from models.loss import TokenLosses
    from train.batches import Batch
    from train.loop import Loop
    from train.tracking import Record


class Breakdown(Hook):
    """Sums the losses of the steps that moved the weights by source and by bucket, on the device.

    Ranks and host meet at a logging step alone, in one sum. A source or bucket of which the steps since the last record
    had no sample is told with 0 tokens and no loss (null).
    """

    name = "breakdown"

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sums_2G = torch.zeros(2, 0)
        self._step_2G = torch.zeros(2, 0)
        self._groups: list[Tensor] = []
        self._kept: dict[str, Any] = {}
        self._loop: Loop | None = None

    def pre_train(self, loop: Loop) -> None:
        """Make room for the groups, and take over the sums of a window that began before the last checkpoint."""
        order, tokens, world = loop.inputs.order, loop.inputs.tokens, loop.world
        self._loop = loop
        self._names = [f"source/{name}" for name in tokens.sources] + [f"bucket/{b.name}" for b in order.buckets]
        self._sums_2G = torch.zeros(2, len(self._names), dtype=torch.float64, device=world.device)  # exact up to 2^53
        self._step_2G = torch.zeros_like(self._sums_2G)
        if self._kept.get("names") == self._names:
            kept_R2G = np.stack([self._kept["sums"], self._kept["tokens"]], axis=1).astype(np.float64)
            if len(kept_R2G) == world.size:
                self._sums_2G += torch.from_numpy(kept_R2G[world.rank]).to(world.device)
            elif world.first:  # another world: rank 0 has them all
                self._sums_2G += torch.from_numpy(kept_R2G.sum(axis=0)).to(world.device)

    def pre_step(self, loop: Loop, batch: Batch) -> None:
        """Find source and bucket of every sample of the step, and begin its sums."""
        order, tokens, world = loop.inputs.order, loop.inputs.tokens, loop.world
        start = batch.step * order.batch_size
        stop = min(start + order.batch_size, len(order))
        split = Split(order.batch_size, world.size, loop.settings.micro_batch_size)
        edges = split.edges(start, stop, world.rank)
        ids_N = np.array(batch.ids, dtype=np.int64)
        source_N = tokens.source_of(ids_N)
        bucket_N = len(tokens.sources) + order.bucket[int(edges[0]) : int(edges[-1])]
        real_N = tokens.real_tokens(ids_N)
        step_2G = np.zeros((2, len(self._names)))
        np.add.at(step_2G[1], source_N, real_N)
        np.add.at(step_2G[1], bucket_N, real_N)
        self._step_2G = torch.from_numpy(step_2G).to(world.device, non_blocking=True)
        self._groups = []
        for first, last in zip(edges[:-1] - edges[0], edges[1:] - edges[0], strict=True):
            groups = np.stack([source_N[first:last], bucket_N[first:last]])
            self._groups.append(torch.from_numpy(groups).to(world.device, non_blocking=True))

    def post_forward(self, loop: Loop, batch: Batch, index: int, losses: TokenLosses) -> None:
        """Add each sample's loss to its source and to its bucket: two small kernels, nobody waits."""
        groups_2B = self._groups[index]
        losses_B = losses.losses_BT.sum(dim=1, dtype=torch.float64)[: groups_2B.shape[1]]  # rows that fill up cost 0
        self._step_2G[0].index_add_(0, groups_2B.flatten(), losses_B.repeat(2))

    def post_step(self, loop: Loop, batch: Batch) -> None:
        """Count the step, unless a guard left it out of the weights."""
        self._sums_2G += torch.where(loop.left_out == 0, self._step_2G, 0.0)

    def metrics(self, loop: Loop) -> Record:
        """Return loss and tokens of every source and bucket since the last record, of all ranks; begin anew."""
        sums, tokens = loop.world.all_sum(self._sums_2G).tolist()
        record: Record = {}
        for name, total, count in zip(self._names, sums, tokens, strict=True):
            record[f"{name}/loss"] = total / count if count else None
            record[f"{name}/tokens"] = int(count)
        self._sums_2G.zero_()
        return record

    def state(self) -> dict[str, Any]:
        """Return the sums of the window that is open, by rank. Every rank calls this."""
        if self._loop is None:
            return self._kept
        world = self._loop.world
        both_R2G = torch.zeros(world.size, 2, len(self._names), dtype=torch.float64, device=world.device)
        both_R2G[world.rank] = self._sums_2G
        rows = world.all_sum(both_R2G).tolist()
        return {
            "names": self._names,
            "sums": [sums for sums, _ in rows],
            "tokens": [[int(count) for count in tokens] for _, tokens in rows],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Keep the sums until the order is known."""
        self._kept = state
