"""Contents of a pair of axes: bucket shares, source shares, a mean over progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.report.axes import label_right, share_axes, shortened
from train.report.theme import SOURCES, colour
from train.report.views import Plan

Values = NDArray[np.float64]
Mixture = tuple[str, float, Plan]
"""An arm, its number of tokens at the end of training, and its plan."""


def bucket_shares(axes: Any, view: Plan) -> None:
    """Draw the bucket shares over progress: realised as areas, planned as dashed edges.

    Buckets that have no samples left at the end are labelled inside their area.
    """
    bottom = np.zeros(len(view.progress))
    count = len(view.buckets)
    last = view.realised[-1]
    some_gone = bool((last == 0).any()) and bool((view.realised[:, last == 0] > 0).any())
    for index in range(count):
        top = bottom + view.realised[:, index]
        strength = 0.2 + 0.65 * index / max(1, count - 1)
        axes.fill_between(view.progress, bottom, top, color=colour("bucket"), alpha=strength, linewidth=0)
        if some_gone and last[index] == 0 and view.realised[:, index].max() > 0:
            centre = float(np.average(view.progress, weights=top - bottom))
            at = int(np.argmin(np.abs(view.progress - centre)))
            name = shortened(view.buckets[index], 16)
            axes.text(view.progress[at], (top[at] + bottom[at]) / 2, name, ha="center", va="center", fontsize=8)
        bottom = top
    for index in range(count - 1):
        edge = view.planned[:, : index + 1].sum(axis=1)
        axes.plot(view.progress, edge, color=colour("ink"), linewidth=1, dashes=(4, 2.5))
    if some_gone:
        shown = np.flatnonzero(last > 0)
        label_right(axes, [view.buckets[index] for index in shown], last[shown])
    else:
        label_right(axes, view.buckets, last)
    share_axes(axes, "share of the batch")


def mixture_strips(figure: Any, above: Any, mixtures: Sequence[Mixture], strip_in: float) -> None:
    """Draw a strip per arm below a pair of axes over tokens: its bucket shares over the same tokens."""
    height = float(figure.get_figheight())
    box = above.get_position()
    for number, (arm, total, view) in enumerate(mixtures):
        bottom = box.y0 - (number + 1) * strip_in / height
        axes = figure.add_axes((box.x0, bottom, box.width, 0.78 * strip_in / height), sharex=above)
        tokens = view.progress * total
        edge = np.zeros(len(tokens))
        count = len(view.buckets)
        for index in range(count):
            top = edge + view.realised[:, index]
            strength = 0.2 + 0.65 * index / max(1, count - 1)
            axes.fill_between(tokens, edge, top, color=colour("bucket"), alpha=strength, linewidth=0)
            edge = top
        axes.set_ylim(0, 1)
        axes.set_yticks([])
        axes.grid(False)
        axes.text(-0.02, 0.5, shortened(arm, 10), transform=axes.transAxes, ha="right", va="center", fontsize=8)
        for name, y in ((view.buckets[0], 0.16), (view.buckets[-1], 0.84)):
            axes.text(1.015, y, shortened(name, 8), transform=axes.transAxes, va="center", fontsize=8)
        last = number == len(mixtures) - 1
        axes.tick_params(labelbottom=last)
        if last:
            axes.set_xlabel(above.get_xlabel())
    if mixtures:
        above.tick_params(labelbottom=False)
        above.set_xlabel("")


def source_shares(axes: Any, progress: Values, names: Sequence[str], table: Values) -> None:
    """Draw the share of every source over progress, stacked."""
    bottom = np.zeros(len(progress))
    for index in range(len(names)):
        top = bottom + table[:, index]
        axes.fill_between(
            progress,
            bottom,
            top,
            facecolor=colour(f"source-{index % SOURCES}"),
            edgecolor=colour("paper"),
            linewidth=0.8,
        )
        bottom = top
    label_right(axes, names, table[-1])
    share_axes(axes, "share of samples")


def mean_line(axes: Any, progress: Values, values: Values, label: str) -> None:
    """Draw a mean over progress."""
    axes.plot(progress, values, color=colour("bucket"), linewidth=1.8)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    axes.set_xlabel("progress of training")
    axes.set_ylabel(label)
