"""Lineage: may a run go on with this order? With its own, or with one replanned from it whose read part is the same."""

from __future__ import annotations

import logging
from pathlib import Path

from curriculum.artifact import ArtifactError, open_manifest
from curriculum.consumed import as_hex, order_hash
from curriculum.order import Order
from curriculum.split import cursor_after
from train import checkpoint

log = logging.getLogger(__name__)


def ancestors(order: Order) -> list[str]:
    """Return the fingerprints of the orders that this one was replanned from, oldest first; [] for an arranged one.

    Raises ArtifactError when the manifest names a parent, but not the ancestors or where it was replanned.
    """
    manifest = order.manifest
    parent = manifest.inputs.get("parent")
    if parent is None:
        return []
    chain = manifest.facts.get("ancestors")
    if not isinstance(chain, list) or chain[-1:] != [parent] or not isinstance(_replanned_at(order), int):
        raise ArtifactError(
            f"order {order.folder} names the parent {parent}, but its manifest does not say the ancestors that end "
            "with it and the cursor where it was replanned (facts.ancestors, facts.replanned_at): make it again"
        )
    return chain


def _replanned_at(order: Order) -> int | None:
    """Return the cursor up to which a replanned order is its parent's."""
    where = order.manifest.facts.get("replanned_at")
    return where.get("cursor") if isinstance(where, dict) else None


def check_resume(folder: Path, order: Order) -> None:
    """Raise ArtifactError unless the run whose checkpoint is `folder` has read just what `order` begins with.

    The consumed hash of the checkpoint is compared with that of the order's first samples. A replanned order goes on
    from a checkpoint of its ancestors', if it was replanned no earlier than there. O(cursor), see `order_hash`.
    """
    manifest = open_manifest(folder, checkpoint.KIND)
    step, cursor, trained_on = manifest.facts["step"], manifest.facts["cursor"], manifest.inputs.get("order")
    if "consumed_hash" not in manifest.facts:
        raise ArtifactError(
            f"checkpoint {folder} does not say what was consumed (facts.consumed_hash): it was written by an older "
            "PDPC; go on with that one, or start anew with another output"
        )
    expected = cursor_after(step, order.batch_size, len(order))
    if cursor != expected:
        raise ArtifactError(
            f"checkpoint {folder} was written at step {step} after {cursor} samples; order {order.folder} puts that "
            f"step after {expected} ({len(order)} samples in batches of {order.batch_size}): give the run its own order"
        )
    replanned = trained_on != order.fingerprint
    if replanned:
        _check_descent(folder, cursor, trained_on, order)
    recorded, found = manifest.facts["consumed_hash"], as_hex(order_hash(order, cursor))
    if recorded != found:
        raise ArtifactError(
            f"checkpoint {folder} has read other samples than the first {cursor} of order {order.folder}: their "
            f"hash is {recorded} in the checkpoint and {found} in the order. The order is another one under the same "
            "name, or damaged, or replanned with a changed past: check it with pdpc inspect verify=true, and put back "
            f"the order that the run was trained on (fingerprint {trained_on})"
        )
    if replanned:
        log.info(
            "the run goes on with order %s, replanned at cursor %s from order %s: the %s samples that it has read are "
            "the same (hash %s)",
            order.fingerprint,
            _replanned_at(order),
            trained_on,
            cursor,
            found,
        )


def _check_descent(folder: Path, cursor: int, trained_on: str | None, order: Order) -> None:
    """Raise ArtifactError unless `order` was replanned from the order of a checkpoint, at its cursor or later."""
    if trained_on not in ancestors(order):
        raise ArtifactError(
            f"checkpoint {folder} was trained on order {trained_on}, and order {order.folder} "
            f"({order.fingerprint}) is neither that nor replanned from it: give the run its own order"
        )
    replanned_at = _replanned_at(order)
    assert replanned_at is not None, "ancestors() has checked it"
    if cursor > replanned_at:
        raise ArtifactError(
            f"checkpoint {folder} has read {cursor} samples of order {trained_on}, and order {order.folder} was "
            f"replanned from it at cursor {replanned_at} already: replan again from this checkpoint, or go on with the "
            "order that the run was trained on"
        )
