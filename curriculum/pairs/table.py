"""Margins of pairs by source: a table for the terminal, and a picture of explicit against implicit margins."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from curriculum.pairs.pairs import Pairs
from curriculum.scores.scores import Scores
from curriculum.work.console import cell, say
from curriculum.work.figures import save

PICTURE = "PDPC margins of pairs"
"""Title of the figure, in its metadata."""
MOST_POINTS = 20_000
TOP = 0.4
INK, MUTED, LINE, KEPT, LEFT = "#1d2733", "#556170", "#d8dee6", "#e08a2c", "#3b7dbb"


def show(scores: Scores, pairs: Pairs, console: Console) -> None:
    """Print the margins by source, and how explicit and implicit ones are related."""
    columns = {name: scores.column(name).astype(np.float64) for name in scores.names}
    source_N = pairs.source_of(np.arange(len(pairs)))
    table = Table(title=cell(f"Margins of {pairs.folder}, slice {pairs.slice}"), title_justify="left")
    headings = ["source", "pairs"]
    if "explicit" in columns:
        headings += ["explicit\nmean", "explicit\ndeviation", "inverted"]
    if "policy" in columns:
        headings += ["implicit\nmean", "implicit\ndeviation", "policy prefers\nthe chosen"]
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left", overflow="fold")
    for index, name in enumerate([*pairs.sources, "all"]):
        mine = source_N == index if index < len(pairs.sources) else np.ones(len(pairs), dtype=bool)
        if mine.any():
            table.add_row(
                cell(name), f"{mine.sum():,}", *_cells({key: column[mine] for key, column in columns.items()})
            )
    console.print(table)
    if "m_ap" in columns and len(pairs) > 1:
        correlation = _correlation(columns["explicit"], columns["implicit"])
        edge = np.quantile(columns["m_ap"], 1 - TOP)
        say(
            console,
            f"correlation of explicit and implicit margins: {correlation}; the top {TOP:.0%} by M_AP are those above "
            f"{edge:.3f}",
        )


def _cells(columns: dict[str, NDArray[np.float64]]) -> list[str]:
    cells = []
    if "explicit" in columns:
        explicit = columns["explicit"]
        cells += [f"{explicit.mean():.3f}", f"{explicit.std():.3f}", f"{(explicit < 0).mean():.1%}"]
    if "policy" in columns:
        implicit = columns["implicit"]
        cells += [f"{implicit.mean():.3f}", f"{implicit.std():.3f}", f"{(columns['policy'] > 0).mean():.1%}"]
    return cells


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    if x.std() == 0 or y.std() == 0:
        return "none (one of them is constant)"
    return f"{np.corrcoef(x, y)[0, 1]:+.2f}"


def draw(scores: Scores, path: Path) -> None:
    """Write a figure (.svg or .png): explicit against implicit margins, the top by M_AP in another colour.

    Raises ValueError unless both margins are known.
    """
    import matplotlib
    from matplotlib.figure import Figure

    if "m_ap" not in scores.names:
        raise ValueError(
            f"picture={path} shows M_AP, which needs a policy and rewards: give both, or leave picture out"
        )
    step = max(1, -(-len(scores) // MOST_POINTS))
    explicit, implicit, m_ap = (scores.column(name)[::step] for name in ("explicit", "implicit", "m_ap"))
    kept = m_ap >= np.quantile(m_ap, 1 - TOP) if len(m_ap) else np.zeros(0, dtype=bool)
    style = {"svg.fonttype": "none", "svg.hashsalt": "pdpc", "font.size": 8.5, "text.parse_math": False}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # not the settings in a matplotlibrc of the current folder
        matplotlib.rcParams.update(style)
        figure = Figure(figsize=(4.9, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for mine, colour, label in ((~kept, LEFT, "the rest"), (kept, KEPT, f"top {TOP:.0%} by M_AP")):
            axes.scatter(implicit[mine], explicit[mine], s=6, color=colour, linewidth=0, alpha=0.6, label=label)
        axes.axhline(0, color=LINE, linewidth=0.8, zorder=0)
        axes.set_xlabel("implicit margin, nats per token", color=MUTED)
        axes.set_ylabel("explicit margin", color=MUTED)
        axes.legend(frameon=False, labelcolor=INK)
        axes.tick_params(colors=MUTED)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("bottom", "left"))
            spine.set_color(LINE)
        save(figure, path, PICTURE, dpi=200)
