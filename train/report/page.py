"""The page: one HTML file with everything in it, nothing to fetch, no scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from curriculum.artifact import code_version
from train.report import charts, theme
from train.report.contents import Report
from train.report.gains import Cell
from train.report.measures import GROUPS, Measure, short_tokens
from train.report.records import Run, finite
from train.report.summary import tiles

CURVES = (
    ("train-loss", "Train loss", "train", "train/loss"),
    ("held-out-loss", "Held-out loss", "stage", "val/loss"),
    ("low-pd-loss", "Held-out loss, low-PD half", "stage", "val/low_pd/loss"),
    ("high-pd-loss", "Held-out loss, high-PD half", "stage", "val/high_pd/loss"),
)
"""Name, title, kind of record and key of every curve."""
MOST_ROWS = 24
"""Rows of a picture of differences or of PD by source; the tables hold them all."""
MARKS = {"better": "\u25b2", "worse": "\u25bc", "within noise": "\u2248", "equal": "=", "no error bar": "?"}


def draw(report: Report) -> dict[str, theme.Picture]:
    """Draw every picture that the report has the numbers for, by name."""
    pictures: list[theme.Picture] = []
    with theme.drawing():
        for name, title, kind, key in CURVES:
            series = _series(report.runs, kind, key)
            if series:
                train = kind == "train"
                pictures.append(charts.curves(name, title, series, unit="nats a token", markers=not train, crop=train))
        speeds = _series(report.runs, "train", "throughput/tokens_per_s")
        if speeds:
            pictures.append(
                charts.curves("speed", "Throughput", speeds, unit="tokens a second", markers=False, crop=True)
            )
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


def render(report: Report, pictures: dict[str, theme.Picture]) -> str:
    """The whole page as HTML text; the same report gives the same bytes."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["tokens"] = short_tokens
    environment.filters["percent"] = lambda value: (
        "\u2014" if value is None or value != value else f"{100 * value:.1f}%"
    )
    environment.filters["number"] = lambda value, digits=0: "\u2014" if value is None else f"{value:,.{digits}f}"
    environment.filters["value"] = lambda value: value if isinstance(value, str) else json.dumps(value)
    return environment.get_template("page.html.j2").render(
        report=report,
        gains=report.gains,
        pictures=pictures,
        svg={name: Markup(drawn.inline()) for name, drawn in pictures.items()},  # noqa: S704 - labels are escaped by the drawing
        curves=[name for name, *_ in CURVES if name in pictures],
        groups={group: title for group, title in GROUPS.items() if report.gains.in_group(group)},
        tiles={arm: tiles(report.gains, arm) for arm in report.arms()},
        by_share=by_share(report),
        configs={run.name: _yaml(run.config) for run in report.runs if run.config},
        facts=_facts(report.runs),
        light=theme.variables(dark=False),
        dark=theme.variables(dark=True),
        roles={arm: theme.arm_role(number) for number, arm in enumerate(report.gains.arms)},
        marks=MARKS,
        code_version=code_version(),
        most_rows=MOST_ROWS,
    )


def by_share(report: Report) -> list[int]:
    """Numbers of the sources that have samples, by their share above the median PD, the largest first."""
    view = report.preferences
    if view is None:
        return []
    present = [index for index, samples in enumerate(view.samples) if samples]
    return sorted(present, key=lambda index: (-view.above[index], view.sources[index]))


def by_size(report: Report) -> list[int]:
    """Numbers of the sources by their share in all orders together, the largest first."""
    tables = [view.sources.mean(axis=0) for view in report.exposures.values() if view.sources is not None]
    total = [float(sum(table[index] for table in tables)) for index in range(len(report.sources))]
    return sorted(range(len(total)), key=lambda index: (-round(total[index], 9), report.sources[index]))


def _series(runs: list[Run], kind: str, key: str) -> dict[str, tuple[list[float], list[float]]]:
    """Tokens and values of one key for every arm that has it; empty when none has."""
    result = {}
    for run in runs:
        records = run.train if kind == "train" else run.stages
        pairs = [(float(record["tokens"]), value) for record in records if (value := finite(record, key)) is not None]
        result[run.name] = ([tokens for tokens, _ in pairs], [value for _, value in pairs])
    return result if any(values for _, values in result.values()) else {}


def _forests(report: Report) -> list[theme.Picture]:
    """Differences at the end: losses in one picture, benchmarks that are shares in another."""
    gains = report.gains
    losses = [m for m in gains.measures if m.group in ("held-out", "source") and m.unit == "nats"]
    tasks = [m for m in gains.in_group("benchmark") if m.unit == "share"]
    result = []
    for name, title, measures, unit in (
        ("loss-differences", "Held-out loss against the baseline", losses, "difference in nats a token"),
        ("benchmark-differences", "Benchmarks against the baseline", tasks, "difference in percentage points"),
    ):
        rows: list[tuple[Measure, dict[str, Cell]]] = []
        for measure in measures[:MOST_ROWS]:
            cells = {arm: gains.final(arm, measure) for arm in report.arms()}
            if any(cell.difference is not None for cell in cells.values()):
                rows.append((measure, cells))
        if rows:
            result.append(charts.forest(name, title, rows, gains.arms, unit))
    return result


def _facts(runs: list[Run]) -> list[tuple[str, list[str]]]:
    """What run.json tells about every arm: a name and one text an arm."""
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
