"""The page, the picture and the table of a probe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from curriculum.artifact.files import write_text
from curriculum.work.console import PlainConsole, say
from launch.probe.results import Results
from train.report import theme
from train.report.axes import legend, legend_columns, line_style, share_axes
from train.report.measures import MINUS, short_tokens
from train.report.page import templates

CURVE_POINTS = 101


def write_page(results: Results, folder: Path) -> Path:
    """Write probe.html and preference.svg into a folder; return the path of the page."""
    pictures = _pictures(results)
    write_text(folder / "preference.svg", pictures[0].svg)
    path = folder / "probe.html"
    write_text(path, render(results, pictures))
    return path


def render(results: Results, pictures: list[theme.Picture]) -> str:
    """Return the page as one self-contained HTML file; the same results give the same bytes."""
    from markupsafe import Markup

    environment = templates(Path(__file__).parent)
    environment.filters["share"] = _share
    environment.filters["distance"] = _distance
    return environment.get_template("page.html.j2").render(
        results=results,
        headline=headline(results),
        cost=cost(results),
        columns=_columns(results),
        fitted=results.fitted.at([one.progress for one in results.checkpoints]).tolist(),
        pictures=[Markup(picture.inline()) for picture in pictures],  # noqa: S704 - labels are escaped by the drawing
        light=theme.variables(dark=False),
        dark=theme.variables(dark=True),
    )


def headline(results: Results) -> str:
    """Return what the probe found, in one sentence."""
    first, last = results.checkpoints[0], results.checkpoints[-1]
    top = results.buckets[-1]
    moves = f"the preferred share of {top} goes from {_share(first.shares[-1])} at {_share(first.progress)} of the run "
    moves += f"to {_share(last.shares[-1])} at {_share(last.progress)}"
    trend = results.trend
    size = f"{_points(trend.value)} over the run, 95 % interval {_points(trend.low)} to {_points(trend.high)}"
    if trend.excludes_zero:
        return f"By {results.measure.key}, {moves}: it {'rises' if trend.value > 0 else 'falls'} ({size})."
    if results.surprising:
        return f"By {results.measure.key}, no change of the preferred share over the run is significant ({size})."
    return f"By {results.measure.key}, no preference was found: every interval holds the share of the corpus ({size})."


def cost(results: Results) -> str:
    """Return the cost of the branches, in one sentence."""
    spent = results.cost
    share = f"{100 * spent.tokens / spent.trunk_tokens:.0f} %"
    return f"{spent.branches} branches, {short_tokens(spent.tokens)} tokens: {share} of the run's"


def show(results: Results, console: Console | None = None) -> None:
    """Print the preferred shares as a table, the cost, and the distances of the preference."""
    console = console or PlainConsole()
    table = Table("progress", *(results.buckets[bucket] for bucket in _columns(results)), "fitted", box=None)
    rows = results.fitted.at([one.progress for one in results.checkpoints])
    for one, fitted_K in zip(results.checkpoints, rows, strict=True):
        cells = [f"{_share(one.shares[b])} ({_share(one.low[b])} to {_share(one.high[b])})" for b in _columns(results)]
        fits = " / ".join(_share(fitted_K[bucket]) for bucket in _columns(results))
        table.add_row(_share(one.progress), *cells, fits)
    console.print(table)
    say(console, cost(results))
    say(
        console,
        f"the {results.fitted.fit} preference is off the exactly-once constraint by "
        f"{_distance(results.fitted.off_constraint)}; the plan moves its shares by at most "
        f"{_distance(results.fitted.off_plan)}",
    )
    for note in results.notes:
        say(console, f"note: {note}")


def _columns(results: Results) -> list[int]:
    """Return the buckets that are shown: of two, the high one says it all."""
    return [1] if len(results.buckets) == 2 else list(range(len(results.buckets)))


def _pictures(results: Results) -> list[theme.Picture]:
    with theme.drawing():
        return [_by_progress(results), _by_share(results)]


def _by_progress(results: Results) -> theme.Picture:
    """Draw the preferred shares with their intervals, and the preference through them."""
    shown = _columns(results)
    rows = -(
        -len(shown) // legend_columns([f"{results.buckets[bucket]}, {results.fitted.fit} fit" for bucket in shown])
    )
    figure, axes = theme.canvas(2.7 + 0.15 * rows, top_in=0.27 + 0.15 * rows)
    at = np.linspace(0, 1, CURVE_POINTS)
    curve_PK = results.fitted.at(at.tolist())
    words = []
    for number, bucket in enumerate(shown):
        style = {**line_style(number + 1, False), "zorder": 3}
        axes.plot(at, curve_PK[:, bucket], label=f"{results.buckets[bucket]}, {results.fitted.fit} fit", **style)
        axes.axhline(results.sizes[bucket], color=style["color"], linewidth=0.9, alpha=0.6, dashes=(4, 2.5))
        for one in results.checkpoints:
            x = one.progress + 0.006 * (number - (len(shown) - 1) / 2)
            axes.plot([x, x], [one.low[bucket], one.high[bucket]], color=style["color"], alpha=0.45, linewidth=2)
            axes.plot([x], [one.shares[bucket]], color=style["color"], marker="o", markersize=5, markeredgewidth=0)
            interval = f"{_share(one.low[bucket])} to {_share(one.high[bucket])}"
            words.append(
                f"{results.buckets[bucket]} {_share(one.shares[bucket])} ({interval}) at {_share(one.progress)}"
            )
    share_axes(axes, "preferred share")
    axes.set_ylim(-0.03, 1.03)
    legend(figure, axes)
    text = f"Preferred shares with 95 % intervals: {'; '.join(words)}. The line is the {results.fitted.fit} fit, "
    return theme.picture(figure, "by-progress", "Preferred share by progress", f"{text}dashed the share of the corpus.")


def _by_share(results: Results) -> theme.Picture:
    """Draw every branch over the share of its emphasised bucket, less the fitted minimum of its checkpoint."""
    names = [_share(one.progress) for one in results.checkpoints]
    rows = -(-len(names) // legend_columns(names))
    figure, axes = theme.canvas(2.7 + 0.15 * rows, top_in=0.27 + 0.15 * rows, left_in=0.72)
    sign = 1.0 if results.measure.lower_is_better else -1.0
    for number, one in enumerate(results.checkpoints):
        style = line_style(number + 1, False)
        lowest = float(one.fitted(np.array([one.shares]))[0])
        own = [branch for branch in results.measured if branch.branch.from_step == one.from_step]
        if len(results.buckets) == 2:
            high = np.linspace(0, 1, CURVE_POINTS)
            axes.plot(high, one.fitted(np.stack([1 - high, high], axis=1)) - lowest, label=names[number], **style)
            shares = [branch.branch.shares[1] for branch in own]
        else:
            shares = [max(branch.branch.shares) for branch in own]
        values = [sign * branch.value - lowest for branch in own]
        label = None if len(results.buckets) == 2 else names[number]
        dots = {"color": style["color"], "linestyle": "", "marker": "o", "markersize": 4, "markeredgewidth": 0}
        axes.plot(shares, values, label=label, **dots)
    axes.xaxis.set_major_formatter(lambda value, _: f"{100 * value:.0f}%")
    axes.set_xlabel(f"share of {results.buckets[1]}" if len(results.buckets) == 2 else "largest share in the batch")
    axes.set_ylabel(f"{results.measure.words or results.measure.key} above the minimum")
    legend(figure, axes)
    text = f"Each branch's {results.measure.key} above the fitted minimum of its checkpoint, over its share."
    return theme.picture(figure, "by-share", "Branches by share", text)


def _share(value: float) -> str:
    return f"{100 * value:.0f} %"


def _points(value: float) -> str:
    text = f"{100 * value:+.1f}"
    return f"{text[1:] if text[1:] == '0.0' else text} points".replace("-", MINUS)


def _distance(value: float) -> str:
    return f"{100 * value:.2f} points"
