"""The page: one self-contained HTML file, with no external resources and no scripts."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curriculum.artifact.files import code_version
from curriculum.work.printable import printable_lines
from train.report import charts, theme
from train.report.arms import counted
from train.report.comparison import ONE_SEED, Gain
from train.report.contents import Report
from train.report.curves import gain_pictures, loss_pictures, mixtures
from train.report.gains import Cell
from train.report.measures import GROUPS, Measure, short_tokens
from train.report.records import Run
from train.report.summary import METHODS, headline_measures, seed_counts
from train.report.verdicts import NO_ERROR_BAR, NO_VERDICT, SUGGESTIVE, UNDECIDED

if TYPE_CHECKING:
    from jinja2 import Environment

MOST_ROWS = 24
"""Maximum number of rows in a figure of differences or of PD by source; the tables list them all."""
MARKS = {
    **{"better": "\u25b2", "worse": "\u25bc", UNDECIDED: "\u2248", SUGGESTIVE: "\u2248", "equal": "="},
    **{NO_VERDICT: "?", NO_ERROR_BAR: "?"},
}


def draw(report: Report) -> dict[str, theme.Picture]:
    """Draw every figure for which the report has data; return them by name."""
    pictures: list[theme.Picture] = []
    with theme.drawing():
        pictures += loss_pictures(report)
        pictures += gain_pictures(report.gains)
        pictures += _forests(report)
        ranks = by_size(report)
        for number, arm in enumerate(report.gains.arms):
            if arm in report.plans:
                pictures.append(charts.plan(arm, number, report.plans[arm]))
            view = report.exposures.get(arm)
            if view is not None and view.sources is not None and len(report.sources) > 1:
                pictures.append(charts.source_mix(arm, number, view, report.sources, ranks))
        with_scores = {arm: view for arm, view in report.exposures.items() if view.high is not None}
        if with_scores:
            pictures.append(charts.high_share(with_scores))
        if report.preferences is not None:
            pictures.append(charts.preferences(report.preferences, by_share(report)[:MOST_ROWS]))
    return {drawn.name: drawn for drawn in pictures}


def templates(folder: Path) -> Environment:
    """Return the Jinja environment of a folder, and of this one for what pages share.

    Values are escaped for HTML, and control characters are shown.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: printable_lines(value) if type(value) is str else value,
    )


def render(report: Report, pictures: dict[str, theme.Picture]) -> str:
    """Return the page as HTML; the same report gives the same bytes."""
    from markupsafe import Markup

    environment = templates(Path(__file__).parent)
    environment.filters["tokens"] = short_tokens
    environment.filters["percent"] = lambda value: (
        "\u2014" if value is None or value != value else f"{100 * value:.1f}%"
    )
    environment.filters["number"] = lambda value, digits=0: "\u2014" if value is None else f"{value:,.{digits}f}"
    environment.filters["value"] = lambda value: value if isinstance(value, str) else json.dumps(value)
    return environment.get_template("page.html.j2").render(
        report=report,
        gains=report.gains,
        twins_found=report.twins,
        pictures=pictures,
        svg={name: Markup(drawn.inline()) for name, drawn in pictures.items()},  # noqa: S704 - labels are escaped by the drawing
        groups={group: title for group, title in GROUPS.items() if report.gains.in_group(group)},
        headline_measures=headline_measures(report.gains),
        seed_counts=seed_counts,
        one_seed=ONE_SEED,
        counted=counted,
        methods=METHODS,
        several=any(len(arm.runs) > 1 for arm in report.arms),
        with_mixture=bool(mixtures(report)),
        group_methods={group: shared_method(_gains(report, group)) for group in GROUPS},
        arm_methods={
            arm: shared_method(report.gains.final(arm, measure).gain for measure in headline_measures(report.gains))
            for arm in report.others
        },
        by_share=by_share(report),
        configs={arm.runs[0].name: _yaml(arm.runs[0].config) for arm in report.arms if arm.runs[0].config},
        facts=_facts(report.runs),
        light=theme.variables(dark=False),
        dark=theme.variables(dark=True),
        roles={arm: theme.arm_role(number) for number, arm in enumerate(report.gains.arms)},
        marks=MARKS,
        code_version=code_version(),
        most_rows=MOST_ROWS,
    )


def shared_method(gains: Iterable[Gain | None]) -> str:
    """Return the interval method in words if it is the same for all gains; else empty, and each gain shows its own."""
    found = {gain.method for gain in gains if gain is not None}
    return METHODS[found.pop()] if len(found) == 1 else ""


def by_share(report: Report) -> list[int]:
    """Return the indices of the sources that have samples, by share above the median PD, largest first."""
    view = report.preferences
    if view is None:
        return []
    present = [index for index, samples in enumerate(view.samples) if samples]
    return sorted(present, key=lambda index: (-view.above[index], view.sources[index]))


def by_size(report: Report) -> list[int]:
    """Return the indices of the sources by their share in all orders together, largest first."""
    tables = [view.sources.mean(axis=0) for view in report.exposures.values() if view.sources is not None]
    total = [float(sum(table[index] for table in tables)) for index in range(len(report.sources))]
    return sorted(range(len(total)), key=lambda index: (-round(total[index], 9), report.sources[index]))


def _gains(report: Report, group: str) -> Iterator[Gain | None]:
    """Yield the gains of a group of measures at all points."""
    for measure in report.gains.in_group(group):
        for row in report.gains.cells[measure.key]:
            yield from (cell.gain for cell in row.values())


def _forests(report: Report) -> list[theme.Picture]:
    """Draw the final differences: losses in one figure, benchmarks that are shares in another."""
    gains = report.gains
    losses = [m for m in gains.measures if m.group in ("held-out", "source") and m.unit == "nats"]
    losses.sort(key=lambda measure: measure != gains.headline_measure())
    tasks = [m for m in gains.in_group("benchmark") if m.unit == "share"]
    result = []
    for name, title, measures, unit in (
        ("loss-differences", "Held-out loss relative to the baseline", losses, "difference in nats per token"),
        ("benchmark-differences", "Benchmarks relative to the baseline", tasks, "difference in percentage points"),
    ):
        rows: list[tuple[Measure, dict[str, Cell]]] = []
        for measure in measures[:MOST_ROWS]:
            cells = {arm: gains.final(arm, measure) for arm in report.others}
            if any(cell.difference is not None for cell in cells.values()):
                rows.append((measure, cells))
        if rows:
            result.append(charts.forest(name, title, rows, gains.arms, unit))
    return result


def _facts(runs: list[Run]) -> list[tuple[str, list[str]]]:
    """Return rows of facts from run.json: a label and one text per run."""
    keys: list[tuple[str, tuple[str, ...]]] = [("status", ("status",)), ("seed", ("seed",))]
    keys += [("parameters", ("parameters",)), ("processes", ("world_size",))]
    for part in ("fingerprints", "versions", "paths"):
        names = sorted({name for run in runs for name in (run.fact(part) or {})})
        keys += [(f"{part.removesuffix('s')}: {name}", (part, name)) for name in names]
    rows = [("run folder", [str(run.folder) for run in runs])]
    for label, path in keys:
        values = [run.fact(*path) for run in runs]
        texts = [f"{value:,}" if label == "parameters" and isinstance(value, int) else str(value) for value in values]
        rows.append((label, ["\u2014" if value is None else text for value, text in zip(values, texts, strict=True)]))
    return rows


def _yaml(config: dict[str, Any]) -> str:
    import yaml

    return str(yaml.safe_dump(config, sort_keys=False, allow_unicode=True, width=100))
