"""Fixtures of the train tests: orders that descend from another."""

import shutil

import numpy as np
import pytest

from curriculum.artifact import create
from curriculum.order import Order


@pytest.fixture(scope="session")
def replanned():
    """Write an order that is another's up to a cursor and turned round after it; return it."""

    def write(parent: Order, folder, cursor: int, **facts) -> Order:
        manifest = parent.manifest
        inputs = {**manifest.inputs, "parent": parent.fingerprint}
        with create(folder, "order", config=manifest.config, inputs=inputs) as draft:
            for name in manifest.files:
                shutil.copyfile(parent.folder / name, draft.path / name)
            for name, dtype in (("ids.bin", "id_dtype"), ("buckets.bin", "bucket_dtype")):
                column = np.memmap(draft.path / name, manifest.facts[dtype], mode="r+")
                column[cursor:] = column[cursor:][::-1].copy()
                column.flush()
            draft.facts.update(
                manifest.facts,
                ancestors=[*manifest.facts.get("ancestors", []), parent.fingerprint],
                replanned_at={"step": cursor // parent.batch_size, "cursor": cursor},
            )
            draft.facts.update(facts)
        return Order.open(folder)

    return write


@pytest.fixture(scope="session")
def damaged():
    """Copy an order and exchange the samples of two positions in the copy; its manifest does not show it."""

    def write(parent: Order, folder, one: int, other: int) -> Order:
        shutil.copytree(parent.folder, folder)
        column = np.memmap(folder / "ids.bin", parent.manifest.facts["id_dtype"], mode="r+")
        column[[one, other]] = column[[other, one]]
        column.flush()
        return Order.open(folder)

    return write
