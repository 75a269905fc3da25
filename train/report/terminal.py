"""The comparison as a table on the terminal: arms by stage."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from curriculum.work.console import PlainConsole, cell
from curriculum.work.printable import printable
from train.report.contents import Report
from train.report.gains import Cell
from train.report.measures import Measure, short_tokens
from train.report.summary import METHODS, seed_counts
from train.report.verdicts import NO_ERROR_BAR, NO_VERDICT, SUGGESTIVE, UNDECIDED

MOST_TASKS = 2
"""With more benchmark metrics than this, only the average is shown; the page has the rest."""
COLOURS = {"better": "green", "worse": "red"}
MARKS = {UNDECIDED: " ~", SUGGESTIVE: " ~", NO_VERDICT: " ?", NO_ERROR_BAR: " ?"}
EXPLAINING = ("unfair", "unknown")
"""Kinds of differences between the arms that the terminal shows; the page has the others too."""


def show(report: Report, console: Any, output: Path) -> None:
    """Print the headline, table and warnings; `console` is a rich Console, None for standard output."""
    console = console or PlainConsole()
    console.print()
    console.print(fitted(report, console))
    console.print(cell(f"Final difference from {report.baseline}, with 95% intervals:"))
    for line, style in ends(report):
        console.print(cell(f"  {line}", style))
    for sentence in report.headlines:
        console.print(cell(sentence, "bold"))
    if unlike := unlike_table(report):
        console.print(unlike)
    for sentence in (*report.warnings, *report.notes):
        console.print(cell(f"! {sentence}", "yellow"))
    console.print(cell(f"Page: {output}"), soft_wrap=True)


def fitted(report: Report, console: Any) -> Any:
    """Return the table with as many measures as fit the console; the caption counts the ones left out."""
    measures = chosen(report)
    while len(measures) > 1 and _natural_width(table(report, measures), console) > console.width:
        measures = measures[:-1]
    return table(report, measures)


def _natural_width(table: Any, console: Any) -> int:
    """Return the width at which no cell of a table is truncated."""
    widest = console.options.update(width=10_000)
    return int(table.__rich_measure__(console, widest).maximum)


def table(report: Report, measures: list[Measure]) -> Any:
    """Return a rich Table: for each stage, one row per arm, then one row per difference from the baseline."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    gains = report.gains
    left = len(gains.measures) - len(measures)
    caption = (
        f"difference = arm - baseline at the same tokens; negative is better for a loss; "
        f"~ {UNDECIDED} or {SUGGESTIVE} only, ? {NO_VERDICT} or {NO_ERROR_BAR}"
    )
    if left:
        caption += f"; {left} more measures on the page"
    result = Table(
        title=cell(report.title), caption=caption, box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left"
    )
    result.add_column("Stage", justify="right", no_wrap=True)
    result.add_column("Tokens", justify="right", no_wrap=True)
    result.add_column("Arm", no_wrap=True)
    for measure in measures:
        result.add_column(cell(_heading(measure)), justify="right", no_wrap=True)
    for number, point in enumerate(gains.points):
        for place, arm in enumerate(arm for arm in gains.arms if arm in point.evaluated):
            tokens = short_tokens(int(point.evaluated[arm][0].record["tokens"]))
            start = [str(point.stages[arm]), tokens] if place == 0 else ["", ""]
            values = [measure.write(gains.cells[measure.key][number][arm].value) for measure in measures]
            result.add_row(*start, Text(printable(_named(arm, len(point.evaluated[arm]))), overflow="fold"), *values)
        for arm in report.others:
            cells = [gains.cells[measure.key][number].get(arm) for measure in measures]
            if any(cell is not None and cell.difference is not None for cell in cells):
                texts = [_difference(measure, cell) for measure, cell in zip(measures, cells, strict=True)]
                label = "difference" if len(report.others) == 1 else f"diff. {arm}"
                result.add_row("", "", cell(label, "dim"), *texts)
        result.add_section()
    return result


def unlike_table(report: Report) -> Any:
    """Return a rich Table of what differs between the arms and may explain a difference; None if nothing does."""
    from rich import box
    from rich.table import Table

    rows = [one for one in report.differences if one.kind in EXPLAINING]
    if not rows:
        return None
    left = len(report.differences) - len(rows)
    result = Table(
        title="What differs between the arms, besides the order",
        caption=f"{left} more on the page: the order, and what changes last digits or nothing" if left else None,
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
    )
    for heading in ("What", *report.gains.arms, "May explain"):
        result.add_column(cell(heading), overflow="fold")
    for one in rows:
        values = [one.values.get(arm, "(unknown)") for arm in report.gains.arms]
        texts = [value if isinstance(value, str) else json.dumps(value) for value in values]
        result.add_row(*(cell(text) for text in (one.what, *texts, one.explains)))
    return result


def ends(report: Report) -> list[tuple[str, str]]:
    """Return one line per gain at the last common evaluation, with its style: difference, interval, verdict, seeds."""
    result = []
    for arm in report.others:
        for measure in chosen(report):
            cell = report.gains.final(arm, measure)
            if cell.gain is None:
                if cell.note:
                    result.append((f"{arm}, {_heading(measure)}: not compared ({cell.note})", ""))
                continue
            ends = measure.write_interval(cell.gain.low, cell.gain.high)
            outcome = f"{measure.write_difference(cell.gain.value)}{f' ({ends})' if ends else ''}, {cell.verdict}"
            how = [seed_counts(cell.gain), METHODS[cell.gain.method], *cell.gain.notes]
            line = f"{arm}, {_heading(measure)}: {outcome}; {', '.join(part for part in how if part)}"
            result.append((line, COLOURS.get(cell.verdict, "")))
    return result


def chosen(report: Report) -> list[Measure]:
    """Return the measures to show on a terminal that is wide enough."""
    gains = report.gains
    tasks = gains.in_group("benchmark")
    if len(tasks) == 2:
        tasks = [measure for measure in tasks if measure.key != "bench/avg"]
    if len(tasks) > MOST_TASKS + 1:
        tasks = [measure for measure in tasks if measure.key == "bench/avg"] or tasks[:MOST_TASKS]
    held_out = [m for m in gains.in_group("held-out") if m.key in ("val/loss", "val/low_pd/loss", "val/high_pd/loss")]
    target = [] if gains.target is None else [gains.headline_measure()]
    return [*target, *held_out, *tasks] or gains.measures[:4]


def _named(arm: str, seeds: int) -> str:
    return arm if seeds == 1 else f"{arm} ({seeds})"


def _heading(measure: Measure) -> str:
    names = {
        "val/loss": "Held-out",
        "val/low_pd/loss": "Low PD",
        "val/high_pd/loss": "High PD",
        "bench/avg": "Bench avg",
        "val/bits_per_byte": "Bits per byte",
    }
    return names.get(measure.key) or measure.label


def _difference(measure: Measure, cell: Cell | None) -> Any:
    from rich.text import Text

    if cell is None or cell.difference is None:
        return Text("")
    mark = MARKS.get(cell.verdict, "")
    return Text(measure.write_difference(cell.difference) + mark, style=COLOURS.get(cell.verdict, "dim"))
