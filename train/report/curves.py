"""The curves of a report: losses of every arm over tokens with the bucket mixture below, gains, throughput."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from train.report import charts
from train.report.arms import Arm
from train.report.contents import Report
from train.report.gains import Gains
from train.report.panels import Mixture
from train.report.records import Run, finite
from train.report.theme import Picture

CURVES = (
    ("train-loss", "Train loss", "train", "train/loss"),
    ("held-out-loss", "Held-out loss", "stage", "val/loss"),
    ("low-pd-loss", "Held-out loss, low-PD half", "stage", "val/low_pd/loss"),
    ("high-pd-loss", "Held-out loss, high-PD half", "stage", "val/high_pd/loss"),
)
"""Name, title, record kind and key of every curve."""
GAINS = (("gain-held-out", "val/loss"), ("gain-benchmarks", "bench/avg"))
"""Name and measure of the gains drawn over tokens."""
WITH_MIXTURE = ("train-loss", "held-out-loss")
MOST_MIXTURES = 4
Points = tuple[list[float], list[float]]
"""Tokens and values."""


def loss_pictures(report: Report) -> list[Picture]:
    """Draw the losses and throughput of every arm: the mean over its seeds, and each seed."""
    under = mixtures(report)
    result = []
    for name, title, kind, key in CURVES:
        seeds = _by_arm(report.arms, kind, key)
        if not any(seeds.values()):
            continue
        means = {
            arm: mean_of(found) if kind == "train" else _of_cells(report, arm, key) for arm, found in seeds.items()
        }
        several = {arm: found for arm, found in seeds.items() if len(found) > 1}
        train = kind == "train"
        below = under if name in WITH_MIXTURE else []
        result.append(
            charts.curves(
                name, title, means, unit="nats per token", markers=not train, crop=train, seeds=several, mixtures=below
            )
        )
    speeds = {arm: mean_of(found) for arm, found in _by_arm(report.arms, "train", "throughput/tokens_per_s").items()}
    if any(tokens for tokens, _ in speeds.values()):
        result.append(charts.curves("speed", "Throughput", speeds, unit="tokens per second", markers=False, crop=True))
    return result


def gain_pictures(gains: Gains) -> list[Picture]:
    """Draw the gains over tokens for the main measures."""
    by_key = {measure.key: measure for measure in gains.measures}
    drawn = [charts.gains_by_stage(name, by_key[key], gains) for name, key in GAINS if key in by_key]
    return [picture for picture in drawn if picture is not None]


def mixtures(report: Report) -> list[Mixture]:
    """Return the plans with more than one bucket, of at most MOST_MIXTURES arms."""
    found = []
    for arm in report.arms:
        view = report.plans.get(arm.name)
        total = tokens_at_end(arm)
        if view is not None and len(view.buckets) > 1 and total:
            found.append((arm.name, total, view))
    return found[:MOST_MIXTURES]


def tokens_at_end(arm: Arm) -> float:
    """Return an arm's number of tokens at the end of its order, even while it is still training; 0 if unknown."""
    for run in arm.runs:
        for record in reversed(run.train):
            progress = finite(record, "curriculum/progress")
            if progress:
                return float(record["tokens"]) / progress
    return float(arm.tokens) if arm.finished else 0.0


def mean_of(seeds: Sequence[Points]) -> Points:
    """Return the mean of several curves, at the tokens of the first one within the range that all of them cover."""
    if len(seeds) <= 1:
        return seeds[0] if seeds else ([], [])
    first = max(tokens[0] for tokens, _ in seeds)
    last = min(tokens[-1] for tokens, _ in seeds)
    at = [tokens for tokens in seeds[0][0] if first <= tokens <= last]
    values = np.mean([np.interp(at, tokens, values) for tokens, values in seeds], axis=0)
    return at, values.tolist() if at else []


def _of_cells(report: Report, arm: str, key: str) -> Points:
    """Return the means shown in the table."""
    cells = zip(report.gains.points, report.gains.cells[key], strict=True)
    found = [(float(point.tokens), row[arm].value) for point, row in cells if arm in row]
    known = [(tokens, value) for tokens, value in found if value is not None]
    return [tokens for tokens, _ in known], [value for _, value in known]


def _by_arm(arms: Sequence[Arm], kind: str, key: str) -> dict[str, list[Points]]:
    """Return the curve of every seed that has one, by arm."""
    return {arm.name: [found for run in arm.runs if (found := _points(run, kind, key))[0]] for arm in arms}


def _points(run: Run, kind: str, key: str) -> Points:
    records = run.train if kind == "train" else run.stages
    pairs = [(float(record["tokens"]), value) for record in records if (value := finite(record, key)) is not None]
    return [tokens for tokens, _ in pairs], [value for _, value in pairs]
