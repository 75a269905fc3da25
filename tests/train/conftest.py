"""Fixtures of the train tests: a world of one rank, and orders derived from another."""

import numpy as np
import pytest

from curriculum.arrange.interleave import OrderWriter
from curriculum.artifact.create import create
from curriculum.order.order import Order
from train.engine.communication import start


@pytest.fixture(scope="session")
def world():
    """Return a world of one rank; a process can initialise DeepSpeed only once."""
    import torch.distributed as dist

    yield start(threads=1)
    dist.destroy_process_group()


def rewritten(parent: Order, folder, positions, inputs, **facts) -> Order:
    """Write an order with the parent's positions rearranged."""
    with (
        create(folder, "order", config=parent.manifest.config, inputs=inputs) as draft,
        OrderWriter(draft, parent.samples, len(parent.bucket_of_cell)) as writer,
    ):
        writer.steps(parent.cell_plan[:], parent.cell_counts[:])
        writer.positions(parent[0 : len(parent)][positions], parent.cell[0 : len(parent)][positions])
        draft.facts.update({**parent.manifest.facts, **facts, **writer.finish()})
    return Order.open(folder)


@pytest.fixture(scope="session")
def replanned():
    """Return a function that writes a replanned order: the parent's up to a cursor, reversed after it."""

    def write(parent: Order, folder, cursor: int, **facts) -> Order:
        positions = np.arange(len(parent))
        positions[cursor:] = positions[cursor:][::-1].copy()
        lineage = {
            "ancestors": [*parent.manifest.facts.get("ancestors", []), parent.fingerprint],
            "replanned_at": {"step": cursor // parent.batch_size, "cursor": cursor},
        }
        inputs = {**parent.manifest.inputs, "parent": parent.fingerprint}
        return rewritten(parent, folder, positions, inputs, **{**lineage, **facts})

    return write


@pytest.fixture(scope="session")
def forged(edit_manifest):
    """Return a function that writes an order with two samples swapped, under the fingerprint of the original."""

    def write(parent: Order, folder, one: int, other: int) -> Order:
        positions = np.arange(len(parent))
        positions[[one, other]] = positions[[other, one]]
        rewritten(parent, folder, positions, parent.manifest.inputs)
        edit_manifest(folder, lambda fields: fields.update(fingerprint=parent.fingerprint))
        return Order.open(folder)

    return write
