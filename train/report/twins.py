"""Antithetic twins among the arms: an order, its mirrored twin and the tied one, found by their orders' fingerprints.

The effect of the order on each measure is then split into that of its direction and that of its strength (effects.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from train.report.arms import Arm
from train.report.comparison import Evaluated
from train.report.effects import Effect, odd_and_even
from train.report.gains import Gains
from train.report.measures import Measure
from train.report.records import Run
from train.report.sides import AVERAGE, Answers, common_tasks, has_value, read_side

MOST_ROWS = 24
LIKE = ("schedule", "optimizer")
"""Settings that the three arms share; a study may train the same orders with several."""


@dataclass(frozen=True)
class Split:
    """The two parts of an order's effect on one measure."""

    measure: Measure
    direction: Effect
    """Odd: what turns into its opposite when the order is mirrored."""
    strength: Effect
    """Even: what the order and its mirror image have in common, compared with the tied one."""
    seeds: int


@dataclass(frozen=True)
class Twins:
    """An order with both its twins, by the names of their arms."""

    order: str
    mirrored: str
    tied: str
    splits: list[Split]


def twins_of(arms: Sequence[Arm], gains: Gains, first: str = "") -> list[Twins]:
    """Return every order of which both twins are among the arms, with its effects at the last point that they share.

    Effects are on losses and on the benchmark average; the measure `first` comes first. Of arms with the same orders
    and settings there must be one of each kind: otherwise it is unclear which belong together.
    """
    answers = Answers()
    found = []
    for order in arms:
        mirrored, tied = (_twins(order, kind, arms) for kind in ("mirrored", "tied"))
        if len(mirrored) == len(tied) == 1:
            three = (order, mirrored[0], tied[0])
            splits = [split for m in _measures(gains, first) if (split := _split(three, gains, m, answers)) is not None]
            if splits:
                found.append(Twins(order.name, mirrored[0].name, tied[0].name, splits))
    return found


def _measures(gains: Gains, first: str) -> list[Measure]:
    shown = [measure for measure in gains.measures if measure.unit == "nats" or measure.key == AVERAGE]
    return sorted(shown, key=lambda measure: measure.key != first)[:MOST_ROWS]


def _twins(order: Arm, kind: str, arms: Sequence[Arm]) -> list[Arm]:
    """Return the arms of which every run is a twin of the order's run with the same seed, trained alike."""
    own = {run.seed: run for run in order.runs if run.stages}
    pairs = {arm.name: [(own[run.seed], run) for run in arm.runs if run.stages and run.seed in own] for arm in arms}
    return [arm for arm in arms if (of_arm := pairs[arm.name]) and all(_is_twin(*pair, kind) for pair in of_arm)]


def _is_twin(parent: Run, run: Run, kind: str) -> bool:
    return (
        run.fact("arranged", "twin") == kind
        and run.fact("arranged", "inputs", "twin_of") == parent.fact("fingerprints", "order")
        and all(run.config.get(key) == parent.config.get(key) for key in LIKE)
    )


def _split(arms: tuple[Arm, Arm, Arm], gains: Gains, measure: Measure, answers: Answers) -> Split | None:
    """Return the two parts of the effect on a measure, over the seeds that all three arms have; None without any."""
    for point in reversed(gains.points):
        by_seed: list[dict[Any, Evaluated]] = [
            {one.run.seed: one for one in point.evaluated.get(arm.name, []) if has_value(*one, measure.key)}
            for arm in arms
        ]
        seeds = [seed for seed in by_seed[0] if all(seed in of_arm for of_arm in by_seed)]
        if seeds:
            break
    else:
        return None
    evaluated = [[of_arm[seed] for seed in seeds] for of_arm in by_seed]
    tasks: list[str] = []
    if measure.key == AVERAGE:
        tasks = (common_tasks([one for of_arm in evaluated for one in of_arm]) or ([], []))[0]
    odd, even = odd_and_even(*(read_side(measure.key, of_arm, answers, tasks) for of_arm in evaluated))
    return Split(measure, odd, even, len(seeds))
