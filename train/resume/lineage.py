"""Lineage: resuming a run from a checkpoint.

With its own order, or with one whose consumed part is the same; on any number of ranks.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curriculum.artifact.files import ArtifactError, reading
from curriculum.artifact.manifest import MANIFEST, open_manifest
from curriculum.order.consumed import as_hex, order_hash
from curriculum.order.order import Order, ancestors, replanned_at
from curriculum.order.split import Split
from train import checkpoint
from train.distributed.exit_codes import CHANGED
from train.settings import TrainSettings

log = logging.getLogger(__name__)


class ChangedRun(ArtifactError):
    """Settings or data of a run changed between two attempts; the message names them."""

    exit_code = CHANGED


def check_resume(folder: Path, order: Order, accepted: bool = False) -> None:
    """Raise ChangedRun unless `order` begins with exactly the samples consumed at the checkpoint `folder`.

    The consumed hash of the checkpoint is compared with that of the order's first samples. A replanned order can resume
    from a checkpoint of its ancestors, unless it was replanned at an earlier cursor; an order `accepted` on record may
    be any that begins with the consumed samples. O(cursor), see `order_hash`.
    """
    manifest = open_manifest(folder, checkpoint.KIND)
    with reading(folder / MANIFEST, "resume from another checkpoint"):
        step, cursor, trained_on = int(manifest.facts["step"]), manifest.facts["cursor"], manifest.inputs.get("order")
    if "consumed_hash" not in manifest.facts:
        raise ArtifactError(
            f"checkpoint {folder} does not record what was consumed (facts.consumed_hash): it was written by an older "
            "PDPC; resume with that version, or start again with another output"
        )
    replanned = trained_on != order.fingerprint
    if replanned and not accepted and trained_on in ancestors(order):
        _check_descent(folder, cursor, trained_on, order)
    expected = order.cursor_after(step)
    if cursor != expected:
        raise ChangedRun(
            f"checkpoint {folder} was written at step {step} after {cursor} samples, but order {order.folder} has "
            f"that step after {expected} ({len(order)} samples in batches of {order.batch_size}): use the run's own "
            "order"
        )
    if replanned and not accepted:
        _check_descent(folder, cursor, trained_on, order)
    recorded, found = manifest.facts["consumed_hash"], as_hex(order_hash(order, cursor))
    if recorded != found:
        raise ChangedRun(
            f"checkpoint {folder} has consumed other samples than the first {cursor} of order {order.folder}: their "
            f"hash is {recorded} in the checkpoint and {found} in the order. The order is another one under the same "
            "name, or damaged, or replanned with a changed past: check it with pdpc inspect verify=true, and restore "
            f"the order that the run was trained on (fingerprint {trained_on})"
        )
    if replanned:
        log.info(
            "resuming with order %s, %s order %s: the %s samples consumed so far are the same (hash %s)",
            order.fingerprint,
            "accepted for" if accepted else f"replanned at cursor {replanned_at(order)} from",
            trained_on,
            cursor,
            found,
        )


def _check_descent(folder: Path, cursor: int, trained_on: str | None, order: Order) -> None:
    """Raise ArtifactError unless `order` was replanned from the order of a checkpoint, at its cursor or later."""
    if trained_on not in ancestors(order):
        raise ChangedRun(
            f"checkpoint {folder} was trained on order {trained_on}, and order {order.folder} "
            f"({order.fingerprint}) is neither that nor replanned from it: use the run's own order; one that begins "
            "with the same samples is accepted with --accept-change fingerprints.order"
        )
    start = replanned_at(order)
    assert start is not None, "ancestors() has checked it"
    if cursor > start:
        raise ChangedRun(
            f"checkpoint {folder} has consumed {cursor} samples of order {trained_on}, but order {order.folder} was "
            f"replanned from it at the earlier cursor {start}: replan again from this checkpoint, or resume "
            "with the order that the run was trained on"
        )


def work_split(settings: TrainSettings, batch_size: int, world_size: int) -> dict[str, int]:
    """Return how an attempt of a run splits its work: ranks, ZeRO stage, micro-batches."""
    split = Split(batch_size, world_size, settings.micro_batch_size)
    return {
        "world_size": world_size,
        "zero_stage": settings.zero.stage,
        "micro_batch_size": settings.micro_batch_size,
        "accumulation": split.accumulation,
    }


def conversion(attempts: Sequence[Mapping[str, Any]], step: int, split: Mapping[str, int]) -> str | None:
    """Return the log line for a checkpoint that is read by another number of ranks, or with another split.

    None when nothing changes. Checkpoints hold parameters by name, in any number of parts: reading one converts it.
    """
    writers = [attempt for attempt in attempts if attempt["step"] < step and "zero_stage" in attempt]
    if not writers or all(writers[-1].get(key) == value for key, value in split.items()):
        return None
    before = _description(writers[-1])
    return f"the checkpoint of step {step} was written by {before} and is converted for {_description(split)}"


def _description(split: Mapping[str, Any]) -> str:
    ranks, parts = split["world_size"], split["accumulation"]
    return (
        f"{ranks} rank{'s' if ranks > 1 else ''} (ZeRO {split['zero_stage']}, {parts} micro-batch"
        f"{'es' if parts > 1 else ''} of {split['micro_batch_size']})"
    )
