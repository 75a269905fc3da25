"""A measure of one arm at the end of a stage: values by seed, per-item answers, recorded standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from train.evaluation.answers import Items, answers_path, read_answers
from train.report.intervals import Side, average, scaled, side_of
from train.report.measures import HEADLINES
from train.report.records import Record, Run, finite

CLOSE = 1e-4
"""Relative tolerance within which answers must reproduce the recorded value (sums are rounded differently)."""
AVERAGE = "bench/avg"
BITS, NATS = "/bits_per_byte", "/loss"


class Answers:
    """The answers of runs at stage ends, read once per run and stage."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        """Where answers could not be used, and why."""
        self._read: dict[tuple[str, int], dict[str, Items]] = {}

    def of(self, run: Run, record: Record) -> Mapping[str, Items]:
        """Return the items by measure for a stage end; {} if none were stored. Raises ValueError for a broken file."""
        where = (run.name, int(record["step"]))
        if where not in self._read:
            self._read[where] = read_answers(answers_path(run.folder, where[1]))
        return self._read[where]

    def note(self, text: str) -> None:
        """Add a note unless it is already there."""
        if text not in self.notes:
            self.notes.append(text)

    def forget(self) -> None:
        """Free what was read."""
        self._read.clear()


def read_side(key: str, seeds: Sequence[tuple[Run, Record]], answers: Answers) -> Side:
    """Return a measure over the seeds that have a value for it, with per-item answers if all of them have answers."""
    values = [value for _, record in seeds if (value := finite(record, key)) is not None]
    errors = [standard_error(record, key) for _, record in seeds]
    known = [error for error in errors if error is not None]
    error = math.sqrt(fmean([error**2 for error in known])) if len(known) == len(errors) else None
    plain = Side(np.asarray(values), error=error)
    side = _from_answers(key, seeds, answers)
    if side is None:
        return plain
    if not np.allclose(side.means, plain.means, rtol=CLOSE, atol=1e-6):
        names = ", ".join(run.name for run, _ in seeds)
        answers.note(f"{names}: the stored answers for {key} do not reproduce the recorded value and are not used")
        return plain
    return replace(side, means=plain.means, error=error)


def standard_error(record: Record, key: str) -> float | None:
    """Return the recorded standard error of `key`.

    `bench/avg` without one gets sqrt(sum of squares) / n over the tasks it averages: tasks have different questions,
    so their errors are independent.
    """
    stderr = finite(record, f"{key}_stderr")
    if stderr is not None or key != AVERAGE:
        return stderr
    errors = [finite(record, f"{task}_stderr") for task in averaged(record)]
    known = [error for error in errors if error is not None]
    return math.hypot(*known) / len(known) if known and len(known) == len(errors) else None


def averaged(record: Record) -> list[str]:
    """Return the task metrics that `bench/avg` averages; empty if they cannot be determined (groups of tasks)."""
    average = finite(record, AVERAGE)
    tasks: dict[str, list[str]] = {}
    for key in record:
        if key.startswith("bench/") and key.count("/") > 1 and finite(record, key) is not None:
            task, _, metric = key.rpartition("/")
            tasks.setdefault(task, []).append(metric)
    keys = []
    for task, metrics in tasks.items():
        found = [(name, metric) for name in HEADLINES for metric in metrics if metric.split(".")[0] == name]
        if found:
            keys.append(f"{task}/{found[0][1]}")
    values = [value for key in keys if (value := finite(record, key)) is not None]
    if average is None or not values or abs(fmean(values) - average) > 1e-6:
        return []
    return keys


def _from_answers(key: str, seeds: Sequence[tuple[Run, Record]], answers: Answers) -> Side | None:
    if key == AVERAGE:
        keys = averaged(seeds[0][1])
        tasks = [_from_answers(task, seeds, answers) for task in keys]
        found = [task for task in tasks if task is not None]
        return average(found) if keys and len(found) == len(keys) else None
    kept = [answers.of(run, record) for run, record in seeds]
    if all(key in items for items in kept):
        return side_of([items[key] for items in kept])
    if not key.endswith(BITS):
        return None
    nats = _from_answers(key.removesuffix(BITS) + NATS, seeds, answers)
    factors = [_ratio(record, key) for _, record in seeds]
    known = [factor for factor in factors if factor is not None]
    return scaled(nats, np.asarray(known)) if nats is not None and len(known) == len(seeds) else None


def _ratio(record: Record, key: str) -> float | None:
    """Return bits per byte divided by nats per token: the text has the same tokens and bytes for every model."""
    bits, nats = finite(record, key), finite(record, key.removesuffix(BITS) + NATS)
    return bits / nats if bits is not None and nats else None
