"""From settings to a report: read the runs, compute, draw, write. The face of the room."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from curriculum.artifact import write_text
from train.report.contents import Report
from train.report.fairness import differences, warnings
from train.report.gains import Gains, Point, compute
from train.report.material import Material, open_material
from train.report.records import Run, read_run
from train.report.settings import ReportSettings
from train.report.summary import ONE_SEED, benchmarks, headline, throughput
from train.report.views import (
    Exposure,
    Plan,
    exposure_of,
    plan_of_metrics,
    plan_of_order,
    preferences_of,
)

log = logging.getLogger(__name__)


def run(settings: ReportSettings, console: Any = None) -> Path:
    """Make the report, write page, JSON and CSV (and pictures when asked), print the table; return the page's path.

    With `wandb` send the runs to W&B instead, and return the folder of the last one. `console` is a rich Console; None
    prints to the standard output. Raises ValueError as `make` does.
    """
    if settings.wandb:
        return _replayed(settings)
    from train.report import page, terminal, writing

    report = make(settings)
    output = Path(settings.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    pictures = page.draw(report)
    if settings.figures:
        folder = output.with_name(f"{output.stem}_figures")
        folder.mkdir(exist_ok=True)
        for drawn in pictures.values():
            write_text(folder / f"{drawn.name}.svg", drawn.svg)
    write_text(output.with_suffix(".json"), writing.as_json(report))
    write_text(output.with_suffix(".csv"), writing.as_csv(report))
    write_text(output, page.render(report, pictures))
    terminal.show(report, console, output)
    log.info("report %s: %s arms, %s moments compared", output, len(report.runs), len(report.gains.points))
    return output


def _replayed(settings: ReportSettings) -> Path:
    folders = {name: Path(folder) for name, folder in settings.runs.items()}
    if settings.workspace:
        from train.tracking.workspace import replay_with_workspace

        return replay_with_workspace(folders, settings.baseline).parent
    from train.tracking.replay import replay

    for folder in folders.values():
        replay(folder)
    return folder


def make(settings: ReportSettings) -> Report:
    """Read the runs and compute what the report shows.

    Raises ValueError for a run that is missing or broken, and for an arm that shares no stage with the baseline.
    """
    names = sorted(settings.runs, key=lambda name: name != settings.baseline)
    runs = [read_run(name, Path(settings.runs[name])) for name in names]
    gains = compute(runs, settings.baseline)
    material = open_material(runs)
    sentences = []
    for arm in gains.arms[1:]:
        sentences += [sentence for sentence in (headline(gains, runs, arm), benchmarks(gains, arm)) if sentence]
    plans, missing = _plans(runs, material)
    exposures = _exposures(material)
    preferences = None
    if material.scores is not None and material.tokens is not None:
        ids = np.arange(len(material.tokens))
        preferences = preferences_of(
            material.scores.column("pd"), material.tokens.source_of(ids), material.tokens.sources
        )
    return Report(
        settings.title,
        settings.baseline,
        runs,
        gains,
        sentences,
        [*warnings(runs), *_doubts(exposures), ONE_SEED],
        [f"{run.name}: {note}." for run in runs for note in run.notes] + _gaps(gains),
        differences(runs),
        [throughput(run) for run in runs],
        material.tokens.sources if material.tokens is not None else [],
        plans,
        exposures,
        preferences,
        {**material.missing, **missing},
    )


def _plans(runs: list[Run], material: Material) -> tuple[dict[str, Plan], dict[str, str]]:
    """The plan of every arm, from its order or else from its metrics, and sentences for those that have none."""
    plans: dict[str, Plan] = {}
    missing: dict[str, str] = {}
    for run in runs:
        order = material.orders.get(run.name)
        view = plan_of_order(order) if order is not None else plan_of_metrics(run)
        if view is None:
            missing[f"plan/{run.name}"] = f"The metrics of {run.name} record no plan either."
        else:
            plans[run.name] = view
    return plans, missing


def _exposures(material: Material) -> dict[str, Exposure]:
    """What the samples of every order are; nothing without tokens."""
    if material.tokens is None:
        return {}
    source_N = material.tokens.source_of(np.arange(len(material.tokens)))
    high_N = None
    if material.scores is not None:
        pd_N = material.scores.column("pd")
        high_N = pd_N > np.median(pd_N)
    sources = len(material.tokens.sources)
    return {arm: exposure_of(order, high_N, source_N, sources) for arm, order in material.orders.items()}


def _doubts(exposures: dict[str, Exposure]) -> list[str]:
    """Warnings that the orders give."""
    result = []
    if len({view.content for view in exposures.values()}) > 1:
        counts = ", ".join(f"{arm} {view.content[0]}" for arm, view in exposures.items())
        result.append(
            f"The orders do not hold the same samples ({counts}): the arms differ in the data, not in its order only."
        )
    return result


def _failures(arm: str, points: list[Point]) -> list[str]:
    """A note for every benchmark of an arm that failed."""
    result = []
    for point in points:
        for key, message in point.records[arm].items():
            if key.startswith("bench/") and key.endswith("/error"):
                task = key.removeprefix("bench/").removesuffix("/error")
                result.append(f"{arm}: benchmark {task} failed at {point.tokens} tokens: {message}")
    return result


def _apart(point: Point) -> float:
    counts = [int(record["tokens"]) for record in point.records.values()]
    return (max(counts) - min(counts)) / max(max(counts), 1)


def _gaps(gains: Gains) -> list[str]:
    """Notes on moments where an arm was not evaluated, or not at the very same tokens."""
    result = []
    for arm in gains.arms:
        lacking = [str(point.tokens) for point in gains.points if arm not in point.records]
        if lacking:
            result.append(f"{arm}: no evaluation at {', '.join(lacking)} tokens; nothing is compared there.")
        result += _failures(arm, [point for point in gains.points if arm in point.records])
    apart = max(_apart(point) for point in gains.points)
    if apart > 0:
        result.append(
            f"Stages are compared at tokens that differ by up to {100 * apart:.2g}%: "
            "padded samples fall at other steps in another order."
        )
    return result
