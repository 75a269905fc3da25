"""Lineage: how does a run go on from a checkpoint?

With its own order, or with one whose read part is the same; on as many ranks as there are now.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curriculum.artifact.files import ArtifactError, reading
from curriculum.artifact.manifest import MANIFEST, open_manifest
from curriculum.order.consumed import as_hex, order_hash
from curriculum.order.order import Order
from curriculum.order.split import Split, cursor_after
from train import checkpoint
from train.distributed.exit_codes import CHANGED
from train.settings import TrainSettings

log = logging.getLogger(__name__)


class ChangedRun(ArtifactError):
    """What a run is made of changed between two of its lives; the message names what."""

    exit_code = CHANGED


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


def check_resume(folder: Path, order: Order, accepted: bool = False) -> None:
    """Raise ChangedRun unless the run whose checkpoint is `folder` has read just what `order` begins with.

    The consumed hash of the checkpoint is compared with that of the order's first samples. A replanned order goes on
    from a checkpoint of its ancestors', if it was replanned no earlier than there; one that is `accepted` on record may
    be any that begins with what was read. O(cursor), see `order_hash`.
    """
    manifest = open_manifest(folder, checkpoint.KIND)
    with reading(folder / MANIFEST, "go on from another checkpoint"):
        step, cursor, trained_on = int(manifest.facts["step"]), manifest.facts["cursor"], manifest.inputs.get("order")
    if "consumed_hash" not in manifest.facts:
        raise ArtifactError(
            f"checkpoint {folder} does not say what was consumed (facts.consumed_hash): it was written by an older "
            "PDPC; go on with that one, or start anew with another output"
        )
    expected = cursor_after(step, order.batch_size, len(order))
    if cursor != expected:
        raise ChangedRun(
            f"checkpoint {folder} was written at step {step} after {cursor} samples; order {order.folder} puts that "
            f"step after {expected} ({len(order)} samples in batches of {order.batch_size}): give the run its own order"
        )
    replanned = trained_on != order.fingerprint
    if replanned and not accepted:
        _check_descent(folder, cursor, trained_on, order)
    recorded, found = manifest.facts["consumed_hash"], as_hex(order_hash(order, cursor))
    if recorded != found:
        raise ChangedRun(
            f"checkpoint {folder} has read other samples than the first {cursor} of order {order.folder}: their "
            f"hash is {recorded} in the checkpoint and {found} in the order. The order is another one under the same "
            "name, or damaged, or replanned with a changed past: check it with pdpc inspect verify=true, and put back "
            f"the order that the run was trained on (fingerprint {trained_on})"
        )
    if replanned:
        log.info(
            "the run goes on with order %s, %s order %s: the %s samples that it has read are the same (hash %s)",
            order.fingerprint,
            "accepted for" if accepted else f"replanned at cursor {_replanned_at(order)} from",
            trained_on,
            cursor,
            found,
        )


def _check_descent(folder: Path, cursor: int, trained_on: str | None, order: Order) -> None:
    """Raise ArtifactError unless `order` was replanned from the order of a checkpoint, at its cursor or later."""
    if trained_on not in ancestors(order):
        raise ChangedRun(
            f"checkpoint {folder} was trained on order {trained_on}, and order {order.folder} "
            f"({order.fingerprint}) is neither that nor replanned from it: give the run its own order; one that begins "
            "with the same samples goes on with --accept-change fingerprints.order"
        )
    replanned_at = _replanned_at(order)
    assert replanned_at is not None, "ancestors() has checked it"
    if cursor > replanned_at:
        raise ChangedRun(
            f"checkpoint {folder} has read {cursor} samples of order {trained_on}, and order {order.folder} was "
            f"replanned from it at cursor {replanned_at} already: replan again from this checkpoint, or go on with the "
            "order that the run was trained on"
        )


def work_split(settings: TrainSettings, batch_size: int, world_size: int) -> dict[str, int]:
    """Return how a life of a run cuts its work: ranks, ZeRO stage, micro-batches."""
    split = Split(batch_size, world_size, settings.micro_batch_size)
    return {
        "world_size": world_size,
        "zero_stage": settings.zero.stage,
        "micro_batch_size": settings.micro_batch_size,
        "accumulation": split.accumulation,
    }


def conversion(lives: Sequence[Mapping[str, Any]], step: int, split: Mapping[str, int]) -> str | None:
    """Return the line that says that the checkpoint of a step is read by another number of ranks, or in another split.

    None when nothing changes. Checkpoints hold parameters by name, in any number of parts: reading one converts it.
    """
    writers = [life for life in lives if life["step"] < step and "zero_stage" in life]
    if not writers or all(writers[-1].get(key) == value for key, value in split.items()):
        return None
    before = _told(writers[-1])
    return f"the checkpoint of step {step} was written by {before} and goes on with {_told(split)}: converted"


def _told(split: Mapping[str, Any]) -> str:
    ranks, parts = split["world_size"], split["accumulation"]
    return (
        f"{ranks} rank{'s' if ranks > 1 else ''} (ZeRO {split['zero_stage']}, {parts} micro-batch"
        f"{'es' if parts > 1 else ''} of {split['micro_batch_size']})"
    )
