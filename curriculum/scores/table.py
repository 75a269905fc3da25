"""Scores by source: a table for the terminal and a figure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from curriculum.scores.baseline import baselines_of
from curriculum.scores.scores import Scores
from curriculum.scores.sums import SourceSums, sum_up
from curriculum.tokens.tokens import Tokens
from curriculum.work.console import cell
from curriculum.work.figures import save
from curriculum.work.printable import printable

BINS = 60
MOST_SOURCES = 8
LABEL_LETTERS = 18
INK, MUTED, LINE = "#1d2733", "#556170", "#d8dee6"
COLOURS = ("#3b7dbb", "#e08a2c", "#2a9d86", "#b55a9f", "#8fa8bf", "#c9b037", "#5c5fa8", "#7a8490")


PD_HEADINGS = ("PD\nmean", "PD\ndeviation", "PD\n< 0", "PD ~\nlength")

PICTURE = "PDPC scores by source"
"""Title of the figure, in its metadata."""


def show(scores: Scores, tokens: Tokens, console: Console) -> None:
    """Print by source the mean loss of each model and, with a weak and a strong model, statistics of PD."""
    sums = sum_up(scores.folder / f"{scores.slice}.parquet", tokens)
    title = cell(f"SCORES {scores.folder}, slice {scores.slice}: nats per token")
    table = Table(title=title, title_justify="left")
    for number, heading in enumerate(("source", "samples", *sums.loss_mean)):
        table.add_column(cell(heading), justify="right" if number else "left", overflow="fold")
    for heading in PD_HEADINGS if sums.pd_mean is not None else ():
        table.add_column(Text(heading), justify="right", no_wrap=True)
    for index, name in enumerate([*sums.sources, "all"]):
        if sums.samples[index]:
            table.add_row(cell(name), f"{sums.samples[index]:,}", *_cells(sums, index))
    table.caption, table.caption_justify = f"for comparison, all: {baselines_of(tokens)}", "left"
    console.print(table)


def _cells(sums: SourceSums, index: int) -> list[str]:
    cells = [f"{mean[index]:.3f}" for mean in sums.loss_mean.values()]
    if sums.pd_mean is not None:
        assert sums.pd_deviation is not None and sums.pd_negative is not None and sums.pd_length is not None  # noqa: PT018
        correlation = sums.pd_length[index]
        cells += [f"{sums.pd_mean[index]:.3f}", f"{sums.pd_deviation[index]:.3f}", f"{sums.pd_negative[index]:.2%}"]
        cells.append(f"{correlation:+.2f}" if np.isfinite(correlation) else "-")
    return cells


def draw(scores: Scores, tokens: Tokens, path: Path) -> None:
    """Write a figure (.svg or .png) of PD, or else of the first model's loss, in the largest sources."""
    import matplotlib
    from matplotlib.figure import Figure

    score = "pd" if "pd" in scores.names else f"loss_{scores.models[0]}"
    low, high, counts = _histograms(scores, tokens, score)
    order = np.argsort(-counts.sum(axis=1), kind="stable")[:MOST_SOURCES]
    order = order[counts[order].sum(axis=1) > 0]
    style = {"svg.fonttype": "none", "svg.hashsalt": "pdpc", "font.size": 8.5, "text.parse_math": False}
    with matplotlib.rc_context():
        matplotlib.rcdefaults()  # not the settings in a matplotlibrc of the current folder
        matplotlib.rcParams.update(style)
        figure = Figure(figsize=(4.9, 0.75 + 0.42 * len(order)))
        axes = figure.add_axes(
            (0.24, 0.42 / (0.75 + 0.42 * len(order)), 0.72, 0.42 * len(order) / (0.75 + 0.42 * len(order)))
        )
        edges = np.linspace(low, high, BINS + 1)
        middle = (edges[1:] + edges[:-1]) / 2
        for place, source in enumerate(order[::-1]):
            share = counts[source] / counts[source].max()
            axes.fill_between(middle, place, place + 0.92 * share, color=COLOURS[place % len(COLOURS)], linewidth=0)
        axes.set_yticks(
            np.arange(len(order)) + 0.3, [_label(tokens.sources[source]) for source in order[::-1]], color=INK
        )
        axes.set_xlim(low, high)
        axes.set_ylim(0, max(len(order), 1))
        axes.set_xlabel("PD" if score == "pd" else f"{score.replace('_', ' of ')}, nats per token", color=MUTED)
        axes.tick_params(axis="y", length=0)
        axes.tick_params(axis="x", colors=MUTED)
        for side, spine in axes.spines.items():
            spine.set_visible(side == "bottom")
            spine.set_color(LINE)
        save(figure, path, PICTURE, dpi=200)


def _label(source: str) -> str:
    shown = printable(source)
    return shown if len(shown) <= LABEL_LETTERS else f"{shown[: LABEL_LETTERS - 1]}\u2026"


def _histograms(scores: Scores, tokens: Tokens, score: str) -> tuple[float, float, np.ndarray]:
    """Return the range shown (without 0.1 % at each end) and counts by source, int64 [sources, BINS]."""
    head = np.concatenate([chunk[score] for chunk in _some(scores, score)])
    low, high = (float(edge) for edge in np.quantile(head, [0.001, 0.999])) if len(head) else (0.0, 1.0)
    high = high if high > low else low + 1e-6
    counts = np.zeros((len(tokens.sources), BINS), dtype=np.int64)
    start = 0
    for chunk in scores.chunks([score]):
        values = chunk[score]
        source_N = tokens.source_of(np.arange(start, start + len(values)))
        start += len(values)
        place = np.clip(((values - low) / (high - low) * BINS).astype(np.int64), 0, BINS - 1)
        inside = (values >= low) & (values <= high)
        np.add.at(counts, (source_N[inside], place[inside]), 1)
    return low, high, counts


def _some(scores: Scores, score: str) -> list[dict[str, np.ndarray]]:
    """Return the score in pieces that fit in memory, subsampled if there are many samples."""
    step = max(1, len(scores) // 10_000_000)
    return [{score: chunk[score][::step]} for chunk in scores.chunks([score])]
