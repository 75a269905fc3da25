"""A measure of one arm at the end of a stage: values by seed, per-item answers, recorded standard errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
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

    def __init__(self, read: Callable[[Path], dict[str, Items]] = read_answers) -> None:
        self.notes: list[str] = []
        """Where answers could not be used, and why."""
        self.ungrouped: list[str] = []
        """Runs whose answers do not say which items belong together."""
        self._read_file = read
        self._read: dict[tuple[str, int], dict[str, Items]] = {}

    def of(self, run: Run, record: Record) -> Mapping[str, Items]:
        """Return the items by measure for a stage end; {} if none were stored. Raises ValueError for a broken file."""
        where = (run.name, int(record["step"]))
        if where not in self._read:
            found = self._read[where] = self._read_file(answers_path(run.folder, where[1]))
            if run.name not in self.ungrouped and any(items.groups is None for items in found.values()):
                self.ungrouped.append(run.name)
        return self._read[where]

    def note(self, text: str) -> None:
        """Add a note unless it is already there."""
        if text not in self.notes:
            self.notes.append(text)

    def forget(self) -> None:
        """Free what was read."""
        self._read.clear()


def read_side(key: str, seeds: Sequence[tuple[Run, Record]], answers: Answers, tasks: Sequence[str] = ()) -> Side:
    """Return a measure over the seeds that have a value for it, with per-item answers if all of them have answers.

    `tasks`: for `bench/avg`, the task metrics that it is the mean of; without any, the recorded average is used.
    """
    if key == AVERAGE and tasks:
        values = [fmean([record[task] for task in tasks]) for _, record in seeds]
    else:
        values = [value for _, record in seeds if (value := finite(record, key)) is not None]
    errors = [standard_error(record, key, tasks) for _, record in seeds]
    known = [error for error in errors if error is not None]
    error = math.sqrt(fmean([error**2 for error in known])) if len(known) == len(errors) else None
    plain = Side(np.asarray(values), error=error)
    side = _from_answers(key, seeds, answers, tasks)
    if side is None:
        return plain
    if not np.allclose(side.means, plain.means, rtol=CLOSE, atol=1e-6):
        names = ", ".join(run.name for run, _ in seeds)
        answers.note(f"{names}: the stored answers for {key} do not reproduce the recorded value and are not used")
        return plain
    return replace(side, means=plain.means)


def common_tasks(seeds: Sequence[tuple[Run, Record]]) -> tuple[list[str], list[str]] | None:
    """Return the task metrics in every seed's `bench/avg`, and those that only some have.

    None if that cannot be known: with a tag, the records do not say which tasks it averages.
    """
    lists = [averaged(record, _names(run)) for run, record in seeds]
    if not all(lists):
        return None
    every = list(dict.fromkeys(task for found in lists for task in found))
    shared = [task for task in every if all(task in found for found in lists)]
    return shared, [task for task in every if task not in shared]


def same_benchmarks(seeds: Sequence[tuple[Run, Record]]) -> bool:
    """Tell whether all seeds have values for the same benchmark metrics."""
    return len({frozenset(_by_task(record).items()) for _, record in seeds}) == 1


def standard_error(record: Record, key: str, tasks: Sequence[str] = ()) -> float | None:
    """Return the recorded standard error of `key`.

    `bench/avg` without one gets sqrt(sum of squares) / n over the `tasks` it averages: tasks have different questions,
    so their errors are independent.
    """
    stderr = finite(record, f"{key}_stderr")
    if key != AVERAGE or (stderr is not None and not tasks):
        return stderr
    errors = [finite(record, f"{task}_stderr") for task in tasks or averaged(record)]
    known = [error for error in errors if error is not None]
    return math.hypot(*known) / len(known) if known and len(known) == len(errors) else None


def averaged(record: Record, names: Sequence[str] = ()) -> list[str]:
    """Return the task metrics that `bench/avg` averages; empty if they cannot be determined (tags).

    `names`: the tasks and groups that the run was asked for; without any, all tasks in the record. A record without an
    average, because a task failed, is averaged over the others if each name has a value or an error message.
    """
    average, tasks = finite(record, AVERAGE), _by_task(record)
    keys = []
    for task, metrics in tasks.items():
        found = [(name, metric) for name in HEADLINES for metric in metrics if metric.split(".")[0] == name]
        if found and (not names or task.removeprefix("bench/") in names):
            keys.append(f"{task}/{found[0][1]}")
    if average is None:
        plain = all(f"bench/{name}" in tasks or f"bench/{name}/error" in record for name in names)
        return keys if names and plain else []
    values = [value for key in keys if (value := finite(record, key)) is not None]
    return keys if values and abs(fmean(values) - average) <= 1e-6 else []


def has_value(run: Run, record: Record, key: str) -> bool:
    """Tell whether a stage record has a measure, or the tasks that `bench/avg` is computed from."""
    return finite(record, key) is not None or (key == AVERAGE and bool(averaged(record, _names(run))))


def _by_task(record: Record) -> dict[str, tuple[str, ...]]:
    """Return the metrics of each benchmark task that have a value."""
    tasks: dict[str, tuple[str, ...]] = {}
    for key in record:
        if key.startswith("bench/") and key.count("/") > 1 and finite(record, key) is not None:
            task, _, metric = key.rpartition("/")
            tasks[task] = (*tasks.get(task, ()), metric)
    return tasks


def _names(run: Run) -> list[str]:
    asked = run.config.get("benchmarks")
    names = asked.get("tasks") if isinstance(asked, dict) else None
    return [str(name) for name in names] if isinstance(names, list) else []


def _from_answers(
    key: str, seeds: Sequence[tuple[Run, Record]], answers: Answers, tasks: Sequence[str] = ()
) -> Side | None:
    if key == AVERAGE:
        keys = tasks or averaged(seeds[0][1])
        sides = [_from_answers(task, seeds, answers) for task in keys]
        found = [side for side in sides if side is not None]
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
