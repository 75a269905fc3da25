"""Shared parts of the figures: line styles, legends above the axes, share axes, labels next to stacked areas."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from rich.cells import cell_len, set_cell_size

from curriculum.work.printable import printable
from train.report.measures import short_tokens
from train.report.theme import SOURCES, arm_colour

START = 0.05
"""A cropped curve is scaled to the data after this share of the tokens; higher values run off the top."""
LABEL_LETTERS = 20
Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""Arm name to (tokens, values), the baseline first."""


def line_style(index: int, markers: bool) -> dict[str, Any]:
    """Return the line style of arm number `index`: the baseline dashed, the others solid."""
    style: dict[str, Any] = {"color": arm_colour(index), "linewidth": 1.5 if index == 0 else 1.8, "zorder": 3 + index}
    if index == 0:
        style["dashes"] = (4, 1.8)
    if markers:
        style |= {"marker": "o", "markersize": 4, "markeredgewidth": 0}
    return style


def legend(figure: Any, axes: Any) -> None:
    """Draw the legend above the axes."""
    handles, labels = axes.get_legend_handles_labels()
    columns = legend_columns(labels)
    figure.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(0.105, 1.01),
        ncols=columns,
        handlelength=2.1,
        columnspacing=1.4,
    )


def legend_columns(labels: Collection[str]) -> int:
    """Return the number of labels that fit side by side above the axes."""
    return max(1, min(len(labels), 52 // (6 + max(map(cell_len, labels), default=1))))


def crop_start(axes: Any, series: Series) -> None:
    """Scale the y-axis to the data after START of the tokens, so that a steep beginning does not dominate."""
    end = max((tokens[-1] for tokens, _ in series.values() if tokens), default=0)
    late = [v for tokens, values in series.values() for t, v in zip(tokens, values, strict=True) if t >= START * end]
    if late:
        low, high = min(late), max(late)
        margin = 0.06 * (high - low) or 0.5
        axes.set_ylim(low - margin, high + margin)


def share_axes(axes: Any, label: str) -> None:
    """Set up axes with progress on x and a share on y, both from 0 to 100 percent."""
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    axes.set_xlabel("progress of training")
    axes.set_ylabel(label)


def label_right(axes: Any, names: Sequence[str], last: Any, most: int = 9, shown: Sequence[int] | None = None) -> None:
    """Label the right ends of stacked areas, with labels moved apart where they would overlap.

    `shown` are the areas to label, all by default; of more than `most`, evenly spaced ones are.
    """
    tops = np.cumsum(last)
    middles = tops - np.asarray(last) / 2
    chosen = list(range(len(names)) if shown is None else shown)
    if len(chosen) > most:
        chosen = [chosen[index] for index in np.unique(np.linspace(0, len(chosen) - 1, most).astype(int))]
    gap, at = 0.085, [float(middles[index]) for index in chosen]
    for index in range(1, len(at)):
        at[index] = max(at[index], at[index - 1] + gap)
    if at and at[-1] > 0.99:
        at[-1] = 0.99
        for index in range(len(at) - 2, -1, -1):
            at[index] = min(at[index], at[index + 1] - gap)
    for index, y in zip(chosen, at, strict=True):
        axes.text(1.02, y, shortened(names[index], 16), transform=axes.get_yaxis_transform(), va="center", fontsize=8)


def largest_sources(sources: list[str], table: Any, ranks: Sequence[int]) -> tuple[list[str], Any]:
    """Return sources by rank and their shares; beyond SOURCES the rest are merged into one, labelled with the count."""
    order = np.asarray(ranks)
    if len(sources) <= SOURCES:
        return [sources[index] for index in order], table[:, order]
    kept, rest = order[: SOURCES - 1], order[SOURCES - 1 :]
    merged = np.concatenate([table[:, kept], table[:, rest].sum(axis=1, keepdims=True)], axis=1)
    return [*(sources[index] for index in kept), f"{len(rest)} others"], merged


def tick(tokens: float) -> str:
    """Format a number of tokens for an axis, without trailing zeros: 500k, 1.5M, 2M."""
    text = short_tokens(tokens)
    number, letter = (text[:-1], text[-1]) if text[-1].isalpha() else (text, "")
    return (number.rstrip("0").rstrip(".") if "." in number else number) + letter


def patch(label: str, face: str, alpha: float) -> Any:
    """Return a legend handle for an area."""
    from matplotlib.patches import Patch

    return Patch(facecolor=face, alpha=alpha, label=label)


def dashes(label: str, face: str) -> Any:
    """Return a legend handle for a dashed line."""
    from matplotlib.lines import Line2D

    return Line2D([], [], color=face, linewidth=1, dashes=(4, 2.5), label=label)


def shortened(text: str, letters: int = LABEL_LETTERS) -> str:
    """Return the text as it can be drawn, truncated with an ellipsis to at most `letters` Latin letters' width."""
    text = printable(text)
    return text if cell_len(text) <= letters else f"{set_cell_size(text, letters - 1).rstrip()}\u2026"


def some(parts: Sequence[str], most: int = 12) -> str:
    """Join the first `most` parts, and say how many more there are."""
    return "; ".join(parts[:most]) + (f"; and {len(parts) - most} more" if len(parts) > most else "")
