"""The samples of hindsight: losses under the final weights, buckets, and losses of reference models, of each sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from curriculum.arrange.cells import Layout
from curriculum.audit.hindsight import AT_ONCE, NO_CELL, Samples
from curriculum.order.order import Order
from curriculum.order.permutation import key_of
from curriculum.preference.base import Preference, ScoreCut, Shuffled
from curriculum.scores.columns import SampleColumns
from curriculum.scores.expression import Expression


def cut_of(order: Order, names: Sequence[str], cut_by: str | None, buckets: int | None) -> Preference:
    """Return how to cut the corpus: by `cut_by`, else the order's score, else PD, into buckets of equal tokens.

    Within every source, unless the order's preference says otherwise. Without any score, everything is one bucket.
    """
    settings: Mapping[str, Any] = order.manifest.config.get("preference", {})
    asked = settings.get("score")
    score = cut_by or asked or ("pd" if "pd" in names else None)
    stratify_by = settings.get("stratify_by") if asked else "source"
    if score is None:
        if buckets is not None:
            raise ValueError(f"buckets={buckets} needs a score to cut by: give scores=FOLDER or own_scores=FILE")
        return Shuffled(stratify_by=stratify_by)
    same = cut_by in (None, asked)
    edges = list(settings.get("edges") or []) if same and buckets is None else []
    count = buckets or (settings.get("buckets") if same else None) or 2
    return ScoreCut(score=score, buckets=count, edges=edges, stratify_by=stratify_by)


def layout_of(cut: Preference, columns: SampleColumns) -> Layout:
    """Cut the order's slice, all of it. Raises ValueError for a missing column and too few distinct scores."""
    return Layout(cut, columns, fold_key=key_of(0, "fold"), keep_unscored=True)


def samples_of(layout: Layout, columns: SampleColumns, features: Sequence[str]) -> Samples:
    """Return the samples of a slice, not yet scored, cut at the edges of `layout`: of its own slice or of another."""
    place_T = np.array([_place(name, layout.sources) for name in columns.sources], dtype=np.int64)
    cell_N = np.full(columns.samples, NO_CELL, dtype=np.int64)
    feature_NF = np.zeros((columns.samples, len(features)), dtype=np.float32)
    for chunk in columns.chunks([*layout.expressions, *(Expression(name) for name in features)]):
        part = slice(chunk.first, chunk.first + len(chunk))
        source_N = place_T[chunk.source_N]
        known_N = source_N >= 0
        inside = replace(chunk, source_N=np.maximum(source_N, 0).astype(np.uint16))
        cut_N = layout.cells_of(inside).astype(np.int64)
        known_N &= cut_N < layout.strata * layout.buckets
        cell_N[part] = np.where(known_N, source_N * layout.buckets + cut_N % layout.buckets, NO_CELL)
        for index, name in enumerate(features):
            feature_NF[part, index] = chunk.scores[name]
    return Samples(np.full(columns.samples, np.nan, dtype=np.float32), cell_N, feature_NF)


def left_out(order: Order, samples: Samples) -> Samples:
    """Return the samples that the order does not use."""
    unread_N = np.ones(len(samples.loss_N), dtype=bool)
    for start in range(0, len(order), AT_ONCE):
        unread_N[order[start : start + AT_ONCE]] = False
    return Samples(samples.loss_N[unread_N], samples.cell_N[unread_N], samples.feature_NF[unread_N])


def _place(name: str, names: Sequence[str]) -> int:
    return names.index(name) if name in names else NO_CELL
