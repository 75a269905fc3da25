"""The audit of an order's origin: buckets recomputed from the scores, and the parent of a replanned order.

Shapes: N samples of the slice, P positions of a chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from curriculum.arrange.branch import is_branch
from curriculum.arrange.cells import Layout
from curriculum.arrange.quantiles import LEFT_OUT
from curriculum.arrange.twin import TWIN_OF
from curriculum.artifact.files import ArtifactError
from curriculum.audit.checks import Check
from curriculum.order.order import Order
from curriculum.order.permutation import key_of
from curriculum.preference import PREFERENCES, Preference
from curriculum.preference.own import recorded
from curriculum.scores.columns import SampleColumns

AT_ONCE = 1 << 20


def check_scores(
    order: Order,
    columns: SampleColumns | None,
    times_N: NDArray[np.uint8],
    own: type[Preference] | None = None,
) -> Check:
    """Recompute every sample's bucket from its scores; check where it occurs, and how often.

    `own` is the preference's class if it is code outside PDPC. Two bytes per sample, and the passes over the scores
    that arranging needs.
    """
    name = "scores"
    if columns is None:
        return Check(name, None, "buckets not compared with the scores: give tokens, scores or own_scores")
    if columns.samples != len(times_N):
        return Check(name, False, f"there are {columns.samples:,} samples, but the order arranges {len(times_N):,}")
    if order.manifest.facts.get("ancestors"):
        return Check(name, None, "buckets of a replanned order depend on what was left: not compared with scores")
    if order.manifest.config.get("twin", {}).get("kind") == "permuted":
        return Check(name, None, "buckets of an order by permuted scores are random: not compared with scores")
    try:
        layout = _layout(order, columns, times_N, own)
    except ValueError as error:
        return Check(name, None, f"buckets not compared with the scores: {error}")
    uses_K = np.array([bucket.uses for bucket in order.buckets], dtype=np.int64)
    uses_C = uses_K[order.bucket_of_cell]
    cell_N = np.full(len(times_N), LEFT_OUT, dtype=np.uint16)
    for chunk in layout.chunks():
        part = slice(chunk.first, chunk.first + len(chunk))
        cell_N[part] = layout.cells_of(chunk)
        counts_P = cell_N[part] != LEFT_OUT
        planned_P = np.where(counts_P, uses_C[np.where(counts_P, cell_N[part], 0)], 0)
        wrong = np.flatnonzero(planned_P != times_N[part])
        if len(wrong):
            at = int(wrong[0])
            return Check(
                name,
                False,
                f"sample {chunk.first + at} occurs {times_N[chunk.first + at]} times, but its scores say "
                f"{planned_P[at]} times ({len(wrong):,} such samples in the chunk from sample {chunk.first} on)",
            )
    for start in range(0, len(order), AT_ONCE):
        ids, cell_P = order[start : start + AT_ONCE], order.cell[start : start + AT_ONCE]
        wrong = np.flatnonzero(cell_N[ids] != cell_P)
        if len(wrong):
            at = int(wrong[0])
            return Check(name, False, f"position {start + at:,}: the scores put sample {ids[at]} in another bucket")
    return Check(name, True, f"each of {len(times_N):,} samples is in the bucket that its scores give")


def check_parent(order: Order, parent: Order | None) -> Iterator[Check]:
    """Compare a replanned order, or a twin, with its parent.

    A replanned order begins like its parent, and continues with exactly what the parent had left (a branch of a probe
    with a part of it); a twin has its samples.
    """
    facts, inputs = order.manifest.facts, order.manifest.inputs
    expected = inputs.get("parent", inputs.get(TWIN_OF))
    if expected is None:
        if parent is not None:
            raise ValueError(f"parent={parent.folder}: {order.folder} was not replanned and has no parent: omit it")
        return
    how = "is a twin of" if TWIN_OF in inputs else "was replanned from"
    if parent is None:
        yield Check("parent", None, f"not compared: give parent=ORDER, the order that this one {how}")
        return
    if parent.fingerprint != expected:
        raise ArtifactError(
            f"parent={parent.folder} has fingerprint {parent.fingerprint}, but {order.folder} {how} {expected}: give "
            "that order"
        )
    if TWIN_OF in inputs:
        yield _same_samples(order, parent)
        return
    where = facts.get("replanned_at") or {}
    if not isinstance(where.get("cursor"), int):
        yield Check("parent", False, "the manifest lists ancestors, but not the cursor at which it was replanned")
        return
    cursor: int = where["cursor"]
    yield _same_head(order, parent, cursor)
    yield _same_rest(order, parent, cursor)


def _same_samples(order: Order, parent: Order) -> Check:
    samples = int(order.manifest.facts["different_samples"]) + int(order.manifest.facts["left_out"])
    had_N, has_N = (_times(part, 0, samples) for part in (parent, order))
    if order.manifest.config["twin"]["kind"] == "permuted":  # repeats have moved to other samples
        had_N, has_N = np.minimum(had_N, 1), np.minimum(has_N, 1)
    wrong = np.flatnonzero(had_N != has_N)
    if len(wrong):
        return Check("twin", False, f"sample {wrong[0]} occurs more or less often than in the parent")
    return Check("twin", True, f"it holds the parent's {np.count_nonzero(has_N):,} different samples")


def _same_head(order: Order, parent: Order, cursor: int) -> Check:
    for start in range(0, cursor, AT_ONCE):
        part = slice(start, min(start + AT_ONCE, cursor))
        wrong = np.flatnonzero((order[part] != parent[part]) | (order.cell[part] != parent.cell[part]))
        if len(wrong):
            at = start + int(wrong[0])
            return Check("read", False, f"position {at:,} holds sample {order[at]}, but the parent's {parent[at]}")
    return Check("read", True, f"the first {cursor:,} positions match the parent's")


def _same_rest(order: Order, parent: Order, cursor: int) -> Check:
    samples = int(order.manifest.facts["different_samples"]) + int(order.manifest.facts["left_out"])
    had_N, has_N = (_times(part, cursor, samples) for part in (parent, order))
    uses_K = np.array([bucket.uses for bucket in order.buckets], dtype=np.int64)
    own_K = uses_K[len(parent.buckets) :]
    uses_C = uses_K[order.bucket_of_cell]
    for start in range(cursor, len(order), AT_ONCE):
        ids, cell_P = order[start : start + AT_ONCE], order.cell[start : start + AT_ONCE]
        planned_P = had_N[ids] * uses_C[cell_P]
        wrong = np.flatnonzero(has_N[ids] != planned_P)
        if len(wrong):
            at = int(wrong[0])
            return Check(
                "left", False, f"sample {ids[at]} occurs {has_N[ids[at]]} times, but {planned_P[at]} were left"
            )
    lost = np.flatnonzero((had_N > 0) & (has_N == 0))
    if is_branch(order):
        return Check("left", True, f"{len(order) - cursor:,} positions hold samples that the parent had left")
    if len(lost) and own_K.min(initial=1) > 0:
        return Check("left", False, f"sample {lost[0]} was left to read but is missing ({len(lost):,} such samples)")
    gone = f", {len(lost):,} are left out by the new uses" if len(lost) else ""
    return Check("left", True, f"{len(order) - cursor:,} positions hold exactly what the parent had left{gone}")


def _times(order: Order, cursor: int, samples: int) -> NDArray[np.uint8]:
    """Return how often each sample occurs from `cursor` on, [N]."""
    times_N = np.zeros(samples, dtype=np.uint8)
    for start in range(cursor, len(order), AT_ONCE):
        np.add.at(times_N, order[start : start + AT_ONCE], np.uint8(1))
    return times_N


def _layout(order: Order, columns: SampleColumns, times_N: NDArray[np.uint8], own: type[Preference] | None) -> Layout:
    """Cut the corpus again as arranging did. Raises ValueError if columns are missing or the edges are unknown."""
    config = order.manifest.config
    preference = _preference(config, own)
    partial = config.get("max_tokens") is not None or bool(config.get("sources"))
    if partial and any(bucket.uses == 0 for bucket in order.buckets):
        raise ValueError("the order covers part of the slice and leaves out a bucket, so its edges are not known")
    layout = Layout(
        preference,
        columns,
        fold_key=key_of(config["seed"], "fold"),
        keep_unscored=config["nonfinite"] == "bucket",
        times=(lambda first, count: (times_N[first : first + count] > 0).astype(np.uint8)) if partial else None,
    )
    if layout.cells != len(order.bucket_of_cell):
        raise ValueError(f"they give {layout.cells} cells, but the order has {len(order.bucket_of_cell)}")
    return layout


def _preference(config: Mapping[str, Any], own: type[Preference] | None) -> Preference:
    """Return the preference that an order's config describes. Raises ValueError if its class is not available."""
    settings, code = config["preference"], recorded(config)
    if code is not None and own is None:
        raise ValueError(
            "the order was arranged by code outside PDPC, which runs only if you name it: add "
            f"preference_code={code.get('file') or 'FILE.py'}:{code.get('class')}"
        )
    kind = own if code is not None else PREFERENCES.get(settings["name"])
    if kind is None:
        raise ValueError(f"this PDPC has no preference {settings['name']!r}")
    kinds = get_type_hints(kind)
    by_number = [name for name in settings if get_origin(kinds.get(name)) is dict and get_args(kinds[name])[0] is float]
    # JSON has only text as keys.
    rows = {name: {float(at): row for at, row in settings[name].items()} for name in by_number}
    try:
        return kind(**{**settings, **rows})
    except TypeError as error:
        raise ValueError(f"its preference has settings that {kind.__name__} does not accept ({error})") from None
