"""Contents of a pair of axes: bucket shares, source shares, a mean over progress."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from train.report.axes import label_right, share_axes, shortened
from train.report.theme import SOURCES, colour
from train.report.views import Plan

LABEL_SHARE = 0.09
"""Thickness, as a share of the axes, that an area needs for a label."""
Values = NDArray[np.float64]
Mixture = tuple[str, float, Plan]
"""An arm, its number of tokens at the end of training, and its plan."""


def bucket_shares(axes: Any, view: Plan) -> None:
    """Draw the bucket shares over progress: realised as areas, planned as dashed edges.

    Each bucket is labelled on its area, where that is thickest; one that is too thin for a label is named on the right.
    """
    bottom = np.zeros(len(view.progress))
    count = len(view.buckets)
    thin = []
    for index in range(count):
        top = bottom + view.realised[:, index]
        strength = _strength(index, count)
        axes.fill_between(view.progress, bottom, top, color=colour("bucket"), alpha=strength, linewidth=0)
        at = _place(view.progress, top - bottom)
        if top[at] - bottom[at] >= LABEL_SHARE:
            axes.text(
                view.progress[at],
                (top[at] + bottom[at]) / 2,
                shortened(view.buckets[index], 16),
                ha="center",
                va="center",
                fontsize=8,
                zorder=5,
            )
        else:
            thin.append(index)
        bottom = top
    for index in range(count - 1):
        edge = view.planned[:, : index + 1].sum(axis=1)
        axes.plot(view.progress, edge, color=colour("ink"), linewidth=1, dashes=(4, 2.5))
    named = [index for index in thin if view.realised[-1, index] > 0]
    if named:
        label_right(axes, view.buckets, view.realised[-1], shown=named)
    share_axes(axes, "share of the batch")


def _strength(index: int, count: int) -> float:
    """Return the opacity of bucket `index`: the highest lets a label on it be read, in light and in dark mode."""
    return 0.15 + 0.4 * index / max(1, count - 1)


def _place(progress: Values, height: Values) -> int:
    """Return where to label an area: the middle of the widest stretch in which it is nearly as thick as it gets.

    If the area is thick enough there too, the label moves away from the ends of the axes, where it would stick out.
    """
    thick = np.flatnonzero(height >= 0.9 * height.max())
    runs = np.split(thick, np.flatnonzero(np.diff(thick) > 1) + 1)
    longest = max(runs, key=lambda run: progress[run[-1]] - progress[run[0]])
    at = int(longest[len(longest) // 2])
    inner = int(np.argmin(np.abs(progress - min(max(progress[at], 0.12), 0.88))))
    return inner if height[inner] >= LABEL_SHARE else at


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
            strength = _strength(index, count)
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
