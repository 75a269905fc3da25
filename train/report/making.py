"""From settings to a report: read the runs, compute, draw, write. Entry point of the package."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np

from curriculum.artifact.files import write_text
from curriculum.artifact.outputs import check_file, check_free, holds
from train.report.about import about, mix_sentences
from train.report.arms import Arm, read_arm
from train.report.comparison import Evaluated
from train.report.contents import Report
from train.report.fairness.differences import differences
from train.report.fairness.warnings import more_than_the_order, warnings
from train.report.gains import Gains, Point, compute, failed_tasks
from train.report.material import Material, open_material
from train.report.scores import score_warnings, untrained_arms
from train.report.settings import ReportSettings
from train.report.summary import benchmarks, cautions, confidence, headline, price, seeds_needed, throughput
from train.report.twins import twins_of
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
    """Write the page, JSON and CSV (and figures if requested), print the table; return the path of the page.

    With `wandb`, send the runs to W&B instead and return the folder of the last one. `console` is a rich Console; None
    prints to standard output. Raises ValueError as `make` does.
    """
    if settings.wandb:
        return _replayed(settings)
    from train.report import page, terminal, writing

    output = Path(settings.output)
    _check_output(output, settings.figures)
    report = make(settings)
    output.parent.mkdir(parents=True, exist_ok=True)
    pictures = page.draw(report)
    if settings.figures:
        folder = output.with_name(f"{output.stem}_figures")
        folder.mkdir(exist_ok=True)
        for drawn in pictures.values():
            write_text(folder / f"{drawn.name}.svg", drawn.svg)
    texts = {".json": writing.as_json(report), ".csv": writing.as_csv(report), ".html": page.render(report, pictures)}
    for suffix, text in texts.items():
        write_text(output.with_suffix(suffix), text)
    terminal.show(report, console, output)
    log.info("report %s: %s arms compared at %s points", output, len(report.arms), len(report.gains.points))
    return output


def _check_output(output: Path, figures: bool) -> None:
    """Raise ValueError when a file to be written exists and is not part of an earlier report."""
    from train.report.writing import COLUMNS

    marks = {
        ".html": "content=\"default-src 'none'; style-src 'unsafe-inline'\"",
        ".json": '"gains"',
        ".csv": COLUMNS[0],
    }
    for suffix, mark in marks.items():
        path = output.with_suffix(suffix)
        check_file("output", path, holds(path, mark))
    if figures:
        check_free("figures of output", output.with_name(f"{output.stem}_figures"), ["*.svg"])


def _replayed(settings: ReportSettings) -> Path:
    folders = {
        name if len(places) == 1 else f"{name}-{number}": Path(place)
        for name, places in settings.places.items()
        for number, place in enumerate(places)
    }
    if settings.workspace:
        from train.report.wandb.workspace import replay_with_workspace

        return replay_with_workspace(folders, settings.baseline).parent
    from train.report.wandb.replay import replay

    for folder in folders.values():
        replay(folder)
    return folder


def make(settings: ReportSettings) -> Report:
    """Read the runs and compute the contents of the report.

    Raises ValueError for a missing or broken run, and for an arm that shares no stage with the baseline.
    """
    names = sorted(settings.runs, key=lambda name: name != settings.baseline)
    arms = [read_arm(name, settings.places[name]) for name in names]
    gains = compute(arms, settings.baseline, target=settings.target)
    runs = [run for arm in arms for run in arm.runs]
    material = open_material(runs)
    unlike = differences(arms, material.orders)
    sentences = []
    for arm in gains.arms[1:]:
        needed = seeds_needed(gains, arm, settings.seed_deviation)
        written = (
            headline(gains, arms, arm),
            confidence(gains, arm),
            price(gains, arm),
            needed,
            benchmarks(gains, arm),
        )
        sentences += [sentence for sentence in written if sentence]
    if others := more_than_the_order(unlike):
        sentences.append(f"This compares more than orders: the arms also differ in {', '.join(others)}.")
    untrained, unread = untrained_arms(arms, material)
    plans, missing = _plans(arms, material)
    exposures = _exposures(arms, material)
    preferences = None
    if material.scores is not None and material.tokens is not None:
        ids = np.arange(len(material.tokens))
        preferences = preferences_of(
            material.scores.column("pd"), material.tokens.source_of(ids), material.tokens.sources
        )
    return Report(
        settings.title,
        settings.baseline,
        arms,
        gains,
        sentences,
        [
            *score_warnings(runs, material),
            *untrained,
            *warnings(arms, unlike),
            *_order_warnings(exposures),
            *cautions(gains, arms),
        ],
        [f"{run.name}: {note}." for run in runs for note in run.notes] + unread + _gaps(arms, gains) + gains.notes,
        unlike,
        [throughput(arm) for arm in arms],
        material.tokens.sources if material.tokens is not None else [],
        plans,
        exposures,
        preferences,
        about(arms, material.tokens),
        mix_sentences(exposures, material.tokens.sources) if material.tokens is not None else [],
        twins_of(arms, gains),
        {**material.missing, **missing},
    )


def _plans(arms: list[Arm], material: Material) -> tuple[dict[str, Plan], dict[str, str]]:
    """Return each arm's plan, from its first readable order or else from the metrics; and notes on missing ones."""
    plans: dict[str, Plan] = {}
    missing: dict[str, str] = {}
    for arm in arms:
        orders = (material.orders.get(run.name) for run in arm.runs)
        views = [plan_of_order(order) for order in orders if order is not None][:1]
        views += [view for run in arm.runs if (view := plan_of_metrics(run)) is not None]
        if views:
            plans[arm.name] = views[0]
        else:
            missing[f"plan/{arm.name}"] = f"The metrics of {arm.name} contain no plan either."
    return plans, missing


def _exposures(arms: list[Arm], material: Material) -> dict[str, Exposure]:
    """Return the exposure of each arm, from the first seed with a readable order; empty without tokens."""
    if material.tokens is None:
        return {}
    source_N = material.tokens.source_of(np.arange(len(material.tokens)))
    high_N = None
    if material.scores is not None:
        pd_N = material.scores.column("pd")
        high_N = pd_N > np.median(pd_N)
    sources = len(material.tokens.sources)
    orders = {arm.name: [material.orders[run.name] for run in arm.runs if run.name in material.orders] for arm in arms}
    return {arm: exposure_of(found[0], high_N, source_N, sources) for arm, found in orders.items() if found}


def _order_warnings(exposures: dict[str, Exposure]) -> list[str]:
    """Return warnings about the contents of the orders."""
    result = []
    if len({view.content for view in exposures.values()}) > 1:
        counts = ", ".join(f"{arm} {view.content[0]}" for arm, view in exposures.items())
        result.append(
            f"The orders do not hold the same samples ({counts}): the arms differ in the data, not only in its order."
        )
    return result


def _failures(seed: Evaluated) -> list[str]:
    """Return notes on failed evaluations of a run at a stage end, with the error message and the command to rerun."""
    run, record = seed
    tasks = failed_tasks(record)
    if not tasks:
        return []
    messages = {task: record.get("val/error" if task == "heldout" else f"bench/{task}/error") for task in tasks}
    failed = ", ".join(task + (f" ({message})" if message else "") for task, message in messages.items())
    remedy = f": run `pdpc evaluate run={run.folder} stages=failed`" if record.get("stage/failed") else ""
    return [f"stage {record.get('stage', '?')} of {run.name} failed in {failed}{remedy}"]


def _apart(point: Point) -> float:
    counts = [int(record["tokens"]) for seeds in point.evaluated.values() for _, record in seeds]
    return (max(counts) - min(counts)) / max(max(counts), 1)


def _gaps(arms: list[Arm], gains: Gains) -> list[str]:
    """Return notes on points where a run was not evaluated, only partly, or not at exactly the same tokens."""
    result = []
    for arm in arms:
        for run in arm.runs:
            lacking = [str(point.tokens) for point in gains.points if not _has(point, arm.name, run.name)]
            if lacking:
                effect = "nothing is compared there" if len(arm.runs) == 1 else "it is left out of the means there"
                result.append(f"{run.name}: no evaluation at {', '.join(lacking)} tokens; {effect}.")
        for point in gains.points:
            for seed in point.evaluated.get(arm.name, []):
                result += _failures(seed)
    apart = max(_apart(point) for point in gains.points)
    if apart > 0:
        result.append(
            f"Stages are compared at token counts that differ by up to {100 * apart:.2g}%: "
            "each order has its padded samples at different steps."
        )
    return result


def _has(point: Point, arm: str, run: str) -> bool:
    return any(one.name == run for one, _ in point.evaluated.get(arm, []))
