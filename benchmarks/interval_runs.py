"""Comparisons as `pdpc report` makes them, of runs in memory or on disk: for `benchmarks.interval_coverage`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from train.evaluation.answers import Items, read_answers
from train.report.arms import Arm, arm_of
from train.report.comparison import Gain
from train.report.gains import Gains, compute
from train.report.records import Run
from train.report.sides import Answers

CALLED = ("better", "worse")
MOST_SEEDS = 5
TASKS = 4
TASK_QUESTIONS = 200


@dataclass
class Calls:
    """Comparisons of runs of one arm, where every call of a difference is a wrong one."""

    comparisons: int = 0
    called: int = 0
    """Comparisons whose headline is called better or worse."""
    excluded: int = 0
    """Comparisons whose headline's interval excludes zero."""
    measures: int = 0
    """Measures other than the headline, over all comparisons."""
    measures_called: int = 0
    any_called: int = 0
    """Comparisons in which any measure is called better or worse."""

    def add(self, gains: Gains) -> None:
        """Count the last stage of a comparison."""
        headline = gains.headline_measure()
        found = {measure.key: gains.final("second", measure).gain for measure in gains.measures}
        first = found.pop(headline.key)
        others = [gain for gain in found.values() if gain is not None]
        self.comparisons += 1
        self.called += _is_called(first)
        self.excluded += first is not None and first.low is not None and not first.low <= 0 <= (first.high or 0.0)
        self.measures += len(others)
        self.measures_called += sum(map(_is_called, others))
        self.any_called += _is_called(first) or any(map(_is_called, others))


def _is_called(gain: Gain | None) -> bool:
    return gain is not None and gain.verdict in CALLED


@dataclass
class Study:
    """An A/A study: how often groups of k runs of one arm are called different."""

    arm: Arm
    seed: int = 0
    """Seed of the random groups."""
    read: Callable[[Path], dict[str, Items]] = field(default_factory=lambda: lru_cache(maxsize=None)(read_answers))

    def disjoint(self, size: int, paired: bool) -> Calls:
        """Compare groups of `size` runs that have no run in common: independent, but few."""
        order = np.random.default_rng([self.seed, size]).permutation(len(self.arm.runs))
        groups = [order[start : start + size] for start in range(0, len(order) - size + 1, size)]
        return self._compared(list(zip(groups[::2], groups[1::2], strict=False)), paired)

    def random(self, size: int, draws: int, paired: bool) -> Calls:
        """Compare `draws` random pairs of disjoint groups; runs recur in several pairs."""
        rng = np.random.default_rng([self.seed, size, 1])
        chosen = [rng.permutation(len(self.arm.runs))[: 2 * size] for _ in range(draws)]
        return self._compared([(both[:size], both[size:]) for both in chosen], paired)

    def _compared(self, pairs: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], paired: bool) -> Calls:
        calls = Calls()
        for pair in pairs:
            arms = []
            for name, group in zip(("first", "second"), pair, strict=True):
                runs = [self._run(int(number), place if paired else int(number)) for place, number in enumerate(group)]
                arms.append(arm_of(name, runs))
            calls.add(compute(arms, "first", Answers(self.read)))
        return calls

    def _run(self, number: int, seed: int) -> Run:
        """Return a run with only its last stage, under a seed that pairs it with another or not."""
        run = self.arm.runs[number]
        return replace(run, info={**run.info, "seed": seed}, stages=run.stages[-1:])


def task_sets(seeds: int, repeats: int, rng: np.random.Generator) -> Iterator[tuple[Gain, float]]:
    """Yield simulated gains of `bench/avg`, and the true difference, when one side lacks the easiest of TASKS tasks.

    The task is missing in one seed of the second arm; the arms differ by 2 points in every second repeat.
    """
    levels = np.linspace(0.3, 0.9, TASKS)
    for number in range(repeats):
        true = 0.02 * (number % 2 == 0)
        shift = rng.normal(0, 0.01, (2, seeds))
        asked = rng.random((TASKS, TASK_QUESTIONS))
        files: dict[Path, dict[str, Items]] = {}
        arms = []
        for place, name in enumerate(("first", "second")):
            runs = []
            for seed in range(seeds):
                luck = rng.random((TASKS, TASK_QUESTIONS))
                mixed = np.where(rng.random((TASKS, TASK_QUESTIONS)) < 0.8, asked, luck)
                right = mixed < np.clip(levels + true * place + shift[place, seed], 0, 1)[:, None]
                kept = range(TASKS - (place == 1 and seed == 0))
                answers = {f"bench/task{task}/acc": _items(right[task]) for task in kept}
                runs.append(_run_in_memory(Path(f"{name}-{seed}"), seed, answers, files))
            arms.append(arm_of(name, runs))
        gains = compute(arms, "first", Answers(partial(_of_run, files)))
        gain = gains.final("second", gains.headline_measure()).gain
        assert gain is not None
        yield gain, true + float(shift[1, 0] - shift[0, 0] if seeds == 1 else 0.0)


def _of_run(files: Mapping[Path, dict[str, Items]], path: Path) -> dict[str, Items]:
    return files[path.parents[1]]


def _items(right: NDArray[np.bool_]) -> Items:
    ids = np.arange(len(right))
    return Items(ids, right.astype(np.float64), np.ones(len(right)), ids)


def _run_in_memory(folder: Path, seed: int, answers: Mapping[str, Items], files: dict[Path, dict[str, Items]]) -> Run:
    files[folder] = dict(answers)
    values = {key: items.mean() for key, items in answers.items()}
    record = {"kind": "stage", "stage": 1, "step": 1, "tokens": 1, **values}
    record["bench/avg"] = float(np.mean(list(values.values())))
    return Run(folder.name, folder, {}, {"seed": seed, "status": "finished"}, [], [record], [])
