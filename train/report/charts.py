"""The figures of the report. Functions that return a Picture must be called inside `theme.drawing()`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rich.cells import cell_len

from train.report.axes import (
    Series,
    crop_start,
    dashes,
    largest_sources,
    legend,
    legend_columns,
    line_style,
    patch,
    share_axes,
    shortened,
    some,
    tick,
)
from train.report.gains import Cell, Gains
from train.report.measures import MINUS, Measure
from train.report.panels import Mixture, bucket_shares, mixture_strips, source_shares
from train.report.theme import Picture, arm_colour, canvas, colour, picture
from train.report.views import Exposure, Plan, Preferences

CURVE_POINTS = 400
"""Maximum number of points; a longer curve is averaged into this many bins."""
STRIP_IN = 0.42
"""Height of one arm's mixture strip below a curve."""


def curves(
    name: str,
    title: str,
    series: Series,
    *,
    unit: str,
    markers: bool,
    crop: bool = False,
    seeds: Mapping[str, Sequence[tuple[Sequence[float], Sequence[float]]]] | None = None,
    mixtures: Sequence[Mixture] = (),
) -> Picture:
    """Draw lines over tokens, one per arm and a pale one per seed, with the arms' mixtures in strips below.

    `crop` lets the steep beginning run off the top.
    """
    rows = -(-len(series) // legend_columns(series))
    under = STRIP_IN * len(mixtures)
    figure, axes = canvas(
        2.6 + 0.15 * rows + under,
        top_in=0.27 + 0.15 * rows,
        bottom_in=0.5 + under,
        right_in=0.5 if mixtures else 0.22,
    )
    parts = []
    for index, (arm, (tokens, values)) in enumerate(series.items()):
        style = line_style(index, markers)
        for seed_tokens, seed_values in (seeds or {}).get(arm, ()):
            pale = {"color": style["color"], "linewidth": 0.8, "alpha": 0.4, "zorder": 2.5}
            axes.plot(*thinned(seed_tokens, seed_values), **pale)
        x, y = thinned(tokens, values)
        axes.plot(x, y, label=arm, **style)
        if len(y):
            parts.append(f"{arm} from {y[0]:.3f} to {y[-1]:.3f}")
    axes.xaxis.set_major_formatter(lambda value, _: tick(value))
    axes.set_xlim(left=0)
    axes.set_xlabel("tokens trained on")
    axes.set_ylabel(unit)
    if crop:
        crop_start(axes, series)
    legend(figure, axes)
    mixture_strips(figure, axes, mixtures, STRIP_IN)
    words = f"Lines over tokens, {unit}: {'; '.join(parts) or 'nothing recorded'}."
    for arm, _, view in mixtures:
        first, last = view.realised[0], view.realised[-1]
        entries = [
            f"{b} from {100 * f:.0f} to {100 * e:.0f} percent"
            for b, f, e in zip(view.buckets, first, last, strict=True)
        ]
        words += f" Below, the batches of {arm}: {some(entries)}."
    return picture(figure, name, title, words)


def gains_by_stage(name: str, measure: Measure, gains: Gains) -> Picture | None:
    """Draw differences from the baseline over tokens with 95 % intervals, one line per arm; None if there are none."""
    others = gains.arms[1:]
    rows = -(-len(others) // legend_columns(others))
    figure, axes = canvas(2.3 + 0.15 * rows, top_in=0.3 + 0.15 * rows, left_in=0.72)
    scale = 100.0 if measure.unit == "share" else 1.0
    end = max(point.tokens for point in gains.points)
    entries = []
    for index, arm in enumerate(others):
        found = [
            (point.tokens + (index - (len(others) - 1) / 2) * end / 90, cells[arm].gain)
            for point, cells in zip(gains.points, gains.cells[measure.key], strict=True)
            if arm in cells
        ]
        known = [(tokens, gain) for tokens, gain in found if gain is not None]
        style = line_style(index + 1, True)
        axes.plot([tokens for tokens, _ in known], [scale * gain.value for _, gain in known], label=arm, **style)
        for tokens, gain in known:
            if gain.low is not None and gain.high is not None:
                ends = [scale * gain.low, scale * gain.high]
                axes.plot([tokens, tokens], ends, color=style["color"], alpha=0.45, linewidth=2)
            text = measure.write_difference(gain.value).replace(MINUS, "-")
            entries.append(f"{arm} at {tick(tokens)} {text} ({gain.verdict})")
    if not entries:
        return None
    axes.axhline(0, color=arm_colour(0), linewidth=1.2, dashes=(4, 2.5))
    axes.xaxis.set_major_formatter(lambda value, _: tick(value))
    axes.set_xlim(0, 1.05 * end)
    axes.set_xlabel("tokens trained on")
    axes.set_ylabel(measure.words or "difference")
    better = "negative" if measure.lower_is_better else "positive"
    legend(figure, axes)
    words = f"Differences from {gains.baseline} over tokens, {better} is better: {some(entries)}."
    return picture(figure, name, f"{measure.label}, difference from {gains.baseline}", words)


def plan(arm: str, number: int, view: Plan) -> Picture:
    """Draw the bucket shares over progress: realised as areas, planned as dashed edges."""
    figure, axes = canvas(2.6, right_in=0.75)
    bucket_shares(axes, view)
    kinds = [patch("realised", colour("bucket"), 0.6)]
    kinds += [dashes("planned", colour("ink"))] if len(view.buckets) > 1 else []
    figure.legend(
        handles=kinds, loc="upper left", bbox_to_anchor=(0.105, 1.01), ncols=2, handlelength=1.6, columnspacing=1.4
    )
    first, last = view.realised[0], view.realised[-1]
    entries = [
        f"{b} from {100 * f:.0f} to {100 * e:.0f} percent" for b, f, e in zip(view.buckets, first, last, strict=True)
    ]
    gap = float(np.abs(view.realised - view.planned).max())
    words = (
        f"Realised share of each bucket: {some(entries)}. "
        f"Planned and realised shares differ by at most {100 * gap:.1f} percentage points."
    )
    return picture(figure, f"plan-{number}", f"Plan of {arm}", words)


def high_share(exposures: Mapping[str, Exposure]) -> Picture:
    """Draw the share of samples above the corpus median PD over progress, one line per arm."""
    rows = -(-len(exposures) // legend_columns(exposures))
    figure, axes = canvas(2.45 + 0.15 * rows, top_in=0.27 + 0.15 * rows)
    parts = []
    for index, (arm, view) in enumerate(exposures.items()):
        assert view.high is not None
        axes.plot(view.progress, view.high, label=arm, **line_style(index, False))
        parts.append(f"{arm} from {100 * view.high[0]:.0f} to {100 * view.high[-1]:.0f} percent")
    share_axes(axes, "share of samples")
    legend(figure, axes)
    return picture(figure, "high-share", "Samples above the median PD", f"Lines over progress: {'; '.join(parts)}.")


def source_mix(arm: str, number: int, view: Exposure, sources: list[str], ranks: Sequence[int]) -> Picture:
    """Draw the share of every source over progress, stacked; beyond SOURCES the smallest are merged.

    `ranks` are source indices, largest first, the same for every arm so that the colours are too.
    """
    assert view.sources is not None
    names, table = largest_sources(sources, view.sources, ranks)
    figure, axes = canvas(2.35, right_in=1.35, top_in=0.16)
    source_shares(axes, view.progress, names, table)
    entries = [
        f"{n} from {100 * a:.0f} to {100 * b:.0f} percent" for n, a, b in zip(names, table[0], table[-1], strict=True)
    ]
    return picture(figure, f"mix-{number}", f"Source mix of {arm}", f"Stacked shares over progress: {some(entries)}.")


def preferences(view: Preferences, order: Sequence[int]) -> Picture:
    """Draw PD by source: one histogram per source, in rows, on one scale; a line marks the corpus median."""
    height = 0.92 + 0.36 * len(order)
    longest = max(cell_len(shortened(view.sources[index])) for index in order)
    figure, axes = canvas(height, left_in=min(1.6, 0.2 + 0.073 * longest), right_in=0.5, top_in=0.4)
    tallest = max(float(view.histogram.max()), 1e-12)
    middles = (view.edges[:-1] + view.edges[1:]) / 2
    for row, index in enumerate(reversed(order)):
        heights = row + 0.92 * view.histogram[index] / tallest
        axes.fill_between(middles, row, heights, step="mid", color=colour("bucket"), alpha=0.55, linewidth=0)
        margin = axes.get_yaxis_transform()
        share = f"{100 * view.above[index]:.0f}%"
        axes.text(-0.015, row + 0.08, shortened(view.sources[index]), transform=margin, ha="right", fontsize=8)
        axes.text(1.015, row + 0.08, share, transform=margin, fontsize=8, color=colour("muted"))
    axes.axvline(view.median, color=colour("ink"), linewidth=1, dashes=(4, 2.5))
    axes.set_yticks(range(len(order)), [""] * len(order))
    axes.set_ylim(0, len(order))
    axes.set_xlim(view.edges[0], view.edges[-1])
    axes.set_xlabel("PD")
    above = 1.0 + 0.1 / (height - 0.9)
    axes.text(1.0, above, "above the median", transform=axes.transAxes, ha="right", fontsize=8, color=colour("muted"))
    entries = [f"{view.sources[index]} {100 * view.above[index]:.0f} percent" for index in order]
    words = f"Histograms of PD by source; corpus median {view.median:.3f}. Share of samples above it: {some(entries)}."
    return picture(figure, "pd-by-source", "PD by source", words)


def forest(
    name: str, title: str, rows: Sequence[tuple[Measure, Mapping[str, Cell]]], arms: Sequence[str], unit: str
) -> Picture:
    """Draw differences from the baseline, one row per measure and one dot per arm; whiskers are 95 % intervals."""
    height = 1.0 + 0.25 * len(rows)
    longest = max(cell_len(shortened(measure.label, 26)) for measure, _ in rows)
    figure, axes = canvas(height, left_in=min(2.0, 0.25 + 0.073 * longest), right_in=0.3)
    scale = 100.0 if rows[0][0].unit == "share" else 1.0
    step = 0.5 / max(1, len(arms) - 1)
    entries, reach = [], 0.0
    for place, (measure, cells) in enumerate(rows):
        for index, arm in enumerate(arms[1:]):
            cell = cells.get(arm)
            if cell is None or cell.difference is None:
                continue
            assert cell.gain is not None
            difference = scale * cell.gain.value
            low, high = (difference if end is None else scale * end for end in (cell.gain.low, cell.gain.high))
            y = place + (index - (len(arms) - 2) / 2) * step
            face = arm_colour(index + 1)
            if low < high:
                axes.plot([low, high], [y, y], color=face, alpha=0.45, linewidth=2)
            axes.plot([difference], [y], color=face, marker="o", markersize=5, markeredgewidth=0)
            reach = max(reach, abs(low), abs(high))
            text = measure.write_difference(cell.difference).replace(MINUS, "-")
            entries.append(f"{measure.label}, {arm}: {text} ({cell.verdict})")
    axes.axvline(0, color=arm_colour(0), linewidth=1.2, dashes=(4, 2.5))
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [shortened(measure.label, 26) for measure, _ in rows])
    axes.set_xlim(-1.15 * (reach or 1), 1.15 * (reach or 1))
    axes.grid(True, axis="x")
    axes.grid(False, axis="y")
    axes.set_xlabel(unit)
    better = ("better", "worse") if rows[0][0].lower_is_better else ("worse", "better")
    for text, x, side in ((f"\u2190 {better[0]}", 0.0, "left"), (f"{better[1]} \u2192", 1.0, "right")):
        axes.text(
            x, 1 + 0.12 / (height - 0.92), text, transform=axes.transAxes, ha=side, fontsize=8.5, color=colour("muted")
        )
    return picture(figure, name, title, f"Differences from {arms[0]}: {'; '.join(entries) or 'none'}.")


def thinned(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return the series unchanged, or averaged into CURVE_POINTS bins if it is longer."""
    if len(x) <= CURVE_POINTS:
        return list(x), list(y)
    edges = np.arange(CURVE_POINTS + 1) * len(x) // CURVE_POINTS
    sizes = np.diff(edges)
    means = [np.add.reduceat(np.asarray(values, dtype=np.float64), edges[:-1]) / sizes for values in (x, y)]
    return means[0].tolist(), means[1].tolist()
