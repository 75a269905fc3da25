"""Live loss by source and by bucket: how much loss each group of samples contributes.

Shapes: N samples of this rank's part of a step, G groups (the sources, then the buckets), R ranks; 3 for nats,
labels, and the divisor of the loss (labels, or pairs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from models.attention import on_device
from train.hooks.hook import Hook

if TYPE_CHECKING:
    from train.batches import Batch
    from train.loop_state import LoopState
    from train.tracking import Record


class Breakdown(Hook):
    """Sums the losses of the steps that updated the weights by source and by bucket, on the device.

    The only sync of ranks and host is one sum at a logging step. A source or bucket without samples since the last
    record is reported with 0 tokens and no loss (null).
    """

    name = "breakdown"

    def __init__(self) -> None:
        self._names: list[str] = []
        self._sums_3G = torch.zeros(3, 0)
        self._kept: dict[str, Any] = {}
        self._loop: LoopState | None = None

    def pre_train(self, loop: LoopState) -> None:
        """Allocate the sums, and restore those of a window that started before the last checkpoint."""
        order, tokens, world = loop.inputs.order, loop.inputs.tokens, loop.world
        self._loop = loop
        self._names = [f"source/{name}" for name in tokens.sources] + [f"bucket/{b.name}" for b in order.buckets]
        self._sums_3G = torch.zeros(3, len(self._names), dtype=torch.float64, device=world.device)  # exact up to 2^53
        if self._kept.get("names") == self._names:
            counts = self._kept.get("counts", self._kept["tokens"])  # an earlier version had only labels
            kept_R3G = np.stack([self._kept["sums"], self._kept["tokens"], counts], axis=1).astype(np.float64)
            if len(kept_R3G) == world.size:
                self._sums_3G += torch.from_numpy(kept_R3G[world.rank]).to(world.device)
            elif world.first:  # another world: rank 0 has them all
                self._sums_3G += torch.from_numpy(kept_R3G.sum(axis=0)).to(world.device)

    def post_step(self, loop: LoopState, batch: Batch) -> None:
        """Add each sample's loss and labels to its source and its bucket, unless a guard skipped the step."""
        bucket_N = batch.bucket_N + len(loop.inputs.tokens.sources)
        known_4N = on_device(torch.stack([batch.source_N, bucket_N, batch.tokens_N, batch.count_N]), loop.world.device)
        costs_3N = torch.where(loop.left_out == 0, torch.cat([loop.losses_N[None], known_4N[2:].double()]), 0.0)
        self._sums_3G.index_add_(1, known_4N[:2].flatten(), costs_3N.repeat(1, 2))

    def metrics(self, loop: LoopState) -> Record:
        """Return loss and tokens of every source and bucket since the last record, over all ranks; then reset."""
        record: Record = {}
        for name, total, labels, count in zip(self._names, *loop.world.all_sum(self._sums_3G).tolist(), strict=True):
            record[f"{name}/loss"] = total / count if count else None
            record[f"{name}/tokens"] = int(labels)
        self._sums_3G.zero_()
        return record

    def state(self) -> dict[str, Any]:
        """Return the sums of the open window, by rank. Every rank calls this."""
        if self._loop is None:
            return self._kept
        world = self._loop.world
        all_R3G = torch.zeros(world.size, 3, len(self._names), dtype=torch.float64, device=world.device)
        all_R3G[world.rank] = self._sums_3G
        rows = world.all_sum(all_R3G).tolist()
        return {
            "names": self._names,
            "sums": [sums for sums, _, _ in rows],
            "tokens": [[int(count) for count in tokens] for _, tokens, _ in rows],
            "counts": [[int(count) for count in counts] for _, _, counts in rows],
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Keep the sums until the order is known."""
        self._kept = state
