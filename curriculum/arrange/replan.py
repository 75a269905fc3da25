"""Replan: a new order for the unread part of an order; the part that has been read stays unchanged.

The samples in the parent's tail are arranged again, each as often as the tail holds it (times the new
preference's uses). The child's manifest names its parent, so that a run of the parent can resume with the child.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum.arrange.arrange import ArrangeSettings, findings_of, open_columns, ties, warn_of_scores
from curriculum.arrange.arrangement import Arrangement
from curriculum.arrange.cells import Layout
from curriculum.arrange.interleave import OrderWriter
from curriculum.artifact.create import create, reusable
from curriculum.artifact.files import ArtifactError
from curriculum.order.contents import EVERY, SAMPLE_SET, contents_of
from curriculum.order.order import KIND, Order
from curriculum.order.permutation import key_of
from curriculum.preference import Pdpc, Preference
from curriculum.preference.own import record
from curriculum.scores.columns import SampleColumns
from curriculum.scores.findings import joined, of_order

log = logging.getLogger(__name__)

POSITIONS_AT_ONCE = 1 << 20
STEPS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class ReplanSettings:
    """Settings of `pdpc replan`."""

    order: str
    """ORDER folder whose tail is arranged again: the parent. It is not modified."""
    output: str
    """ORDER folder to write."""
    from_step: int | None = None
    """First step of the tail, counted from 0: the steps before it have been read and stay."""
    from_stage: int | None = None
    """Instead: the stage, counted from 1, whose end the tail follows."""
    tokens: str | None = None
    """TOKENS folder that the parent arranges; null if it was arranged from own scores only."""
    scores: str | None = None
    """SCORES folder."""
    own_scores: str | None = None
    """Parquet of your own scores."""
    nonfinite: str = "fail"
    """How to treat samples with a non-finite score: fail, or bucket (a separate bucket, spread evenly)."""
    batch_size: int | None = None
    """Samples per step of the tail, over all ranks; null: the parent's. A run that resumes with another one must have
    its newest checkpoint exactly where the tail begins."""
    preference: Preference = field(default_factory=Pdpc)
    """How much each bucket is wanted at each moment of the tail; progress runs from 0 to 1 over the tail."""
    seed: int = 0
    """Seed of every permutation of the tail."""
    workers: int | None = None
    """Threads; null: one per usable CPU. The order does not depend on it."""

    def __post_init__(self) -> None:
        if (self.from_step is None) == (self.from_stage is None):
            raise ValueError("give from_step=N, the first step that has not been read, or from_stage=N, not both")
        if self.batch_size is not None and self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1, or null to keep the parent's")


def run(settings: ReplanSettings) -> Order:
    """Write the child ORDER, or open it if it already exists."""
    parent = Order.open(settings.order)
    from_step = _first_step(settings, parent)
    columns = _columns(settings, parent)
    inputs = {**columns.inputs, **settings.preference.inputs, "parent": parent.fingerprint}
    places = ("order", "tokens", "scores", "own_scores", "output", "workers", "from_stage")
    config = {key: value for key, value in asdict(settings).items() if key not in places} | {"from_step": from_step}
    batch_size = settings.batch_size or parent.batch_size
    config |= {"batch_size": batch_size, "slice": parent.manifest.facts["slice"]}
    config |= record(settings.preference) | ties(settings.preference)
    folder = Path(settings.output)
    if reusable(folder, KIND, config=config, inputs=inputs):
        log.info("order %s is complete and up to date: reused", folder)
        warn_of_scores(columns)
        return Order.open(folder)
    cursor = parent.cursor_after(from_step)
    head_N = times_of(parent, 0, cursor, columns.samples)
    tail_N = times_of(parent, cursor, len(parent), columns.samples)
    seed = key_of(settings.seed, "replan", from_step)
    layout = Layout(
        settings.preference,
        columns,
        fold_key=key_of(seed, "fold"),
        keep_unscored=settings.nonfinite == "bucket",
        times=lambda first, count: tail_N[first : first + count],
        most_times=int(tail_N.max()),
        workers=settings.workers,
    )
    before = len(parent.bucket_of_cell)
    hashed = bool(settings.preference.uses) or contents_of(parent)[SAMPLE_SET] != EVERY
    with (
        create(folder, KIND, config=config, inputs=inputs) as draft,
        Arrangement(layout, batch_size, seed, draft.path) as tail,
        OrderWriter(draft, columns.samples, before + layout.cells, hashed=hashed) as writer,
    ):
        for plan_SC, counts_SC in _head_steps(parent, from_step):
            writer.steps(*(np.pad(table, ((0, 0), (0, layout.cells))) for table in (plan_SC, counts_SC)))
        writer.steps(*(np.pad(table, ((0, 0), (before, 0))) for table in (tail.plan_SC, tail.counts_SC)))
        for start in range(0, cursor, POSITIONS_AT_ONCE):
            part = slice(start, min(start + POSITIONS_AT_ONCE, cursor))
            writer.positions(parent[part], parent.cell[part])
        used_N = head_N > 0
        for ids, cells in tail.pieces():
            writer.positions(ids, cells.astype(np.int64) + before)
            used_N[ids] = True
        different = int(np.count_nonzero(used_N))
        facts = _facts(parent, tail, from_step, batch_size, different, int(tail_N.sum()))
        draft.facts.update(writer.finish(), **facts)
        draft.facts.update(joined([of_order(parent.manifest.facts), findings_of(columns)]).as_fact())
    child = Order.open(folder)
    audit = child.manifest.facts["audit"]
    log.info(
        "order %s: steps 1 to %s as in %s (%s samples read), %s samples left in %s new steps of %s",
        folder,
        from_step,
        settings.order,
        audit["read"],
        audit["left"],
        child.steps - from_step,
        child.batch_size,
    )
    if len(child) != len(parent):
        log.warning(
            "warning: order %s has %s samples, %s has %s: a learning rate that decays over the run moves with the "
            "length, so a run that resumes with this order asks for --accept-change schedule.steps",
            *(folder, f"{len(child):,}", settings.order, f"{len(parent):,}"),
        )
    warn_of_scores(columns)
    return child


def _first_step(settings: ReplanSettings, parent: Order) -> int:
    """Return the first step of the tail. Raises ValueError unless the parent has steps before and after it."""
    ends, stage = parent.stage_ends, settings.from_stage
    if stage is not None and not 0 < stage < len(ends):
        raise ValueError(
            f"from_stage={stage} must be at least 1 and below the {len(ends)} stages of {settings.order}: the tail "
            "follows the end of that stage"
        )
    step = ends[stage - 1] if stage is not None else settings.from_step
    assert step is not None, "one of them is given"
    if not 0 < step < parent.steps:
        raise ValueError(
            f"from_step={step} must lie between 0 and the {parent.steps} steps of {settings.order}: it is the first "
            "step that has not been read"
        )
    return step


def times_of(order: Order, start: int, stop: int, samples: int) -> NDArray[np.uint8]:
    """Return how often each of the samples 0 .. samples - 1 occurs between two positions, [samples]."""
    from curriculum.arrange.kernels import count_ids

    times_N = np.zeros(samples, dtype=np.uint8)
    for first in range(start, stop, POSITIONS_AT_ONCE):
        ids = order[first : min(first + POSITIONS_AT_ONCE, stop)]
        if len(ids) and int(ids.max()) >= samples:
            raise ArtifactError(
                f"{order.folder} holds sample {int(ids.max())}, but there are {samples} samples: it arranges other data"
            )
        count_ids(ids, times_N)
    return times_N


def _columns(settings: ReplanSettings, parent: Order) -> SampleColumns:
    """Open the columns and check that they belong to the parent's samples."""
    facts = parent.manifest.facts
    columns = open_columns(
        ArrangeSettings(
            output=settings.output,
            tokens=settings.tokens,
            slice=facts["slice"],
            scores=settings.scores,
            own_scores=settings.own_scores,
            nonfinite=settings.nonfinite,
            preference=settings.preference,
            workers=settings.workers,
        )
    )
    theirs = parent.manifest.inputs.get("tokens")
    if theirs != columns.inputs.get("tokens"):
        raise ArtifactError(
            f"{settings.order} arranges other tokens ({theirs}) than tokens={settings.tokens} "
            f"({columns.inputs.get('tokens')}): give the TOKENS that it arranges"
        )
    if columns.samples != facts["different_samples"] + facts["left_out"]:
        raise ArtifactError(
            f"{settings.order} arranges {facts['different_samples'] + facts['left_out']} samples, but there are "
            f"{columns.samples}: give the scores of the same samples"
        )
    return columns


def _head_steps(parent: Order, steps: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    for first in range(0, steps, STEPS_AT_ONCE):
        rows = slice(first, min(first + STEPS_AT_ONCE, steps))
        yield parent.cell_plan[rows], parent.cell_counts[rows]


def _facts(
    parent: Order, tail: Arrangement, from_step: int, batch_size: int, different: int, tail_before: int
) -> dict[str, Any]:
    """Return the child's facts: the parent's buckets and cells, then the tail's, and what was read and what is left.

    `different` counts the samples that the child holds, `tail_before` the positions of the parent's tail.
    """
    old, new = parent.manifest.facts, tail.facts()
    cursor = parent.cursor_after(from_step)
    sizes = [stretch for stretch in parent.batch_sizes if stretch[0] < from_step]
    if sizes[-1][1] != batch_size:
        sizes.append([from_step, batch_size])
    steps = from_step + len(tail.counts_SC)
    samples = cursor + tail.total
    buckets = [{**bucket, "name": f"{bucket['name']}@{from_step}"} for bucket in new["buckets"]]
    shift = {"stratum": len(parent.strata), "bucket": len(parent.buckets)}
    return {
        **{key: old[key] for key in ("slice", "seq_len")},
        "batch_size": batch_size,
        **({"batch_sizes": sizes} if len(sizes) > 1 else {}),
        "samples": samples,
        "different_samples": different,
        "left_out": tail.layout.columns.samples - different,
        "repeated": samples - different,
        "steps": steps,
        "stage_ends": _stage_ends(parent, from_step, steps),
        "buckets": [*old["buckets"], *buckets],
        "strata": [*old["strata"], *new["strata"]],
        "cells": {key: [*old["cells"][key], *(value + shift[key] for value in new["cells"][key])] for key in shift},
        "edges": new["edges"],
        "spread_evenly": new["spread_evenly"],
        "ancestors": [*old.get("ancestors", []), parent.fingerprint],
        "replanned_at": {"step": from_step, "cursor": cursor},
        "audit": {"read": cursor, "left": tail.total, "left_before": tail_before},
    }


def _stage_ends(parent: Order, from_step: int, steps: int) -> list[int]:
    """Keep the parent's stages if it has as many steps; else divide the rest into as many stages as were left."""
    if steps == parent.steps:
        return parent.stage_ends
    past = [end for end in parent.stage_ends if end <= from_step]
    left = len(parent.stage_ends) - len(past)
    return past + [from_step + round((steps - from_step) * stage / left) for stage in range(1, left + 1)]
