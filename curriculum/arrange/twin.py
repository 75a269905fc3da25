"""Twins of an ORDER, for comparisons at matched exposure: the same samples, equally often, in another plan.

    mirrored  the plan backwards in time: the parent's last samples come first
    tied      no direction: every cell has its share of the whole order at every step
    permuted  the parent's plan, with its samples exchanged at random within every stratum, as if arranged by permuted
              scores

Batch sizes, stages, buckets and cells are the parent's. Neither scores nor tokens are needed: a parent knows the cell
of each of its positions. Memory: about 20 bytes per position.

Shapes: N positions, S steps, C cells.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum.arrange.interleave import NO_TURNS, OrderWriter, cell_dtype, id_dtype
from curriculum.arrange.plan import round_plan, step_sizes
from curriculum.artifact.create import create, reusable
from curriculum.artifact.files import ArtifactError
from curriculum.artifact.outputs import check_place
from curriculum.order.contents import EVERY, SAMPLE_SET, contents_of
from curriculum.order.order import KIND, Order, ancestors
from curriculum.order.permutation import KeyedPermutation, key_of
from curriculum.scores.findings import of_order

log = logging.getLogger(__name__)

TWINS = ("mirrored", "tied", "permuted")
TWIN_OF = "twin_of"
"""Input of a twin: the fingerprint of its parent."""
KEPT = (
    "samples", "different_samples", "left_out", "repeated", "buckets", "strata", "cells", "edges", "spread_evenly",
    "steps", "batch_size", "stage_ends", "slice", "seq_len",
)  # fmt: skip
"""Facts that a twin has in common with its parent."""

Table = NDArray[np.float64]
Counts = NDArray[np.int32]
Positions = tuple[NDArray[np.unsignedinteger[Any]], NDArray[np.unsignedinteger[Any]]]
"""Sample ids and cells by position, [N] each."""


def write_twin(parent: Order, kind: str, seed: int, output: Path) -> Order:
    """Write a twin of an arranged order, or open it if it already exists. Raises ValueError for a replanned parent."""
    if ancestors(parent):
        raise ValueError(
            f"twin_of={parent.folder} was replanned, and the part that was read cannot move: replan its parent again "
            "with the mirrored preference (pdpc replan preference.steepness=-10), or give the order it began as"
        )
    if TWIN_OF in parent.manifest.inputs:
        raise ValueError(f"twin_of={parent.folder} is a twin itself: give the order that it was made of")
    config = {**parent.manifest.config, "twin": {"kind": kind, "seed": seed}}
    inputs = {**parent.manifest.inputs, TWIN_OF: parent.fingerprint}
    if reusable(output, KIND, config=config, inputs=inputs):
        log.info("order %s is complete and up to date: reused", output)
        return Order.open(output)
    check_place("output", output)
    sizes_S = step_sizes(len(parent), parent.batch_size)
    plan_SC = parent.cell_plan[:].astype(np.float64)
    counts_SC = parent.cell_counts[:].astype(np.int32)
    largest = int(parent.manifest.facts["different_samples"]) + int(parent.manifest.facts["left_out"])
    positions = (
        parent[:].astype(id_dtype(largest)),
        parent.cell[:].astype(cell_dtype(counts_SC.shape[1])),
    )
    _check_whole(parent, positions, counts_SC, largest)
    key = key_of(seed, kind)
    facts = {name: parent.manifest.facts[name] for name in KEPT}
    if kind == "permuted":
        positions = permuted(positions, parent.stratum_of_cell, largest, key)
        facts |= {"edges": {}, "buckets": [{**bucket, "low": None, "high": None} for bucket in facts["buckets"]]}
    elif kind == "tied":
        plan_SC = np.outer(sizes_S, counts_SC.sum(axis=0) / len(parent))
        counts_SC = round_plan(plan_SC, parent.batch_size, counts_SC.sum(axis=0))
        positions = composed(shuffled(positions, key), counts_SC, key)
    elif sizes_S[-1] == parent.batch_size:
        plan_SC, counts_SC, positions = plan_SC[::-1], counts_SC[::-1], (positions[0][::-1], positions[1][::-1])
    else:
        plan_SC = mirrored(counts_SC, sizes_S)
        counts_SC = round_plan(plan_SC, parent.batch_size, counts_SC.sum(axis=0))
        positions = composed((positions[0][::-1], positions[1][::-1]), counts_SC, key)
    with (
        create(output, KIND, config=config, inputs=inputs) as draft,
        OrderWriter(draft, largest, counts_SC.shape[1], hashed=contents_of(parent)[SAMPLE_SET] != EVERY) as writer,
    ):
        parent.recheck()
        writer.steps(np.ascontiguousarray(plan_SC), np.ascontiguousarray(counts_SC))
        writer.positions(*map(np.ascontiguousarray, positions))
        draft.facts.update(writer.finish(), **facts, **of_order(parent.manifest.facts).as_fact())
    log.info("order %s: the %s twin of %s (%s samples)", output, kind, parent.folder, f"{len(parent):,}")
    return Order.open(output)


def _check_whole(parent: Order, positions: Positions, counts_SC: Counts, samples: int) -> None:
    """Raise ArtifactError if the files of an order contradict each other, although each has its checksum."""
    ids_N, cell_N = positions
    cells = counts_SC.shape[1]
    if int(ids_N.max()) >= samples or int(cell_N.max()) >= cells or (counts_SC < 0).any() or (
        np.bincount(cell_N, minlength=cells) != counts_SC.sum(axis=0, dtype=np.int64)
    ).any():  # fmt: skip
        raise ArtifactError(
            f"twin_of={parent.folder}: its positions are not those of its plan, or are of other samples: it was not "
            "written by pdpc arrange; arrange it again"
        )


def mirrored(counts_SC: Counts, sizes_S: NDArray[np.int64]) -> Table:
    """Return the plan [S, C] of an order read backwards, sample by sample, in steps of the same sizes.

    With P(x) the samples of each cell among the first x, it is P'(x) = P(N) - P(N - x). Steps that the reversed order
    cuts elsewhere, because the last one is shorter, take proportional parts of the order's own.
    """
    ends_S = np.cumsum(sizes_S)
    total = int(ends_S[-1])
    before_SC = np.concatenate((np.zeros((1, counts_SC.shape[1])), np.cumsum(counts_SC, axis=0, dtype=np.float64)))
    at_S = total - np.concatenate(([0], ends_S))
    step_S = np.minimum(np.searchsorted(ends_S, at_S, side="right"), len(sizes_S) - 1)
    part_S = (at_S - (ends_S - sizes_S)[step_S]) / sizes_S[step_S]
    passed_SC = before_SC[step_S] + part_S[:, None] * counts_SC[step_S]
    plan_SC: Table = passed_SC[:-1] - passed_SC[1:]
    return plan_SC


def shuffled(positions: Positions, key: int) -> Positions:
    """Return an order's positions in random order."""
    ids_N, cell_N = positions
    order_N = KeyedPermutation(len(ids_N), key)(np.arange(len(ids_N)))
    return ids_N[order_N], cell_N[order_N]


def permuted(positions: Positions, stratum_C: NDArray[np.int64], samples: int, key: int) -> Positions:
    """Return positions in which the samples of every stratum have changed places at random; cells stay in place.

    `samples` is one more than the largest possible id. A sample that a bucket repeats gives its repeats to another.
    """
    ids_N, cell_N = positions
    other_I = np.arange(samples, dtype=ids_N.dtype)
    for stratum in np.unique(stratum_C):
        there_I = np.zeros(samples, dtype=np.bool_)
        there_I[ids_N[stratum_C[cell_N] == stratum]] = True
        mine = np.flatnonzero(there_I)
        if len(mine):
            permutation = KeyedPermutation(len(mine), (key + int(stratum)) % 2**64)
            other_I[mine] = mine[permutation(np.arange(len(mine)))]
    return other_I[ids_N], cell_N


def composed(positions: Positions, counts_SC: Counts, key: int) -> Positions:
    """Return an order in which each step takes `counts_SC` of each cell, in the sequence of `positions`."""
    from curriculum.arrange.kernels import compose_steps

    ids_N, cell_N = positions
    stream_N = ids_N[np.argsort(cell_N, kind="stable")]
    count_C = counts_SC.sum(axis=0, dtype=np.int64)
    ids, cells = np.empty_like(ids_N), np.empty_like(cell_N)
    compose_steps(0, counts_SC, stream_N, np.cumsum(count_C) - count_C, NO_TURNS, np.uint64(key), ids, cells)
    return ids, cells
