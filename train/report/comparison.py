"""One difference: an arm and the baseline at a stage end, or a stage and the one before it.

Compared is what both sides have: with the same seeds, only seeds that have a value on both; for the benchmark average,
only tasks that every seed of both sides has. What is left out is named with the difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from train.report.arms import Arm, paired
from train.report.intervals import interval
from train.report.measures import Measure
from train.report.records import Record, Run, is_non_finite
from train.report.sides import AVERAGE, Answers, common_tasks, has_value, read_side, same_benchmarks
from train.report.verdicts import verdict

ONE_SEED = "one seed per arm"


class Evaluated(NamedTuple):
    """A run at the end of a stage."""

    run: Run
    record: Record


@dataclass(frozen=True)
class Gain:
    """A difference of two values: for a loss, negative is better."""

    value: float
    low: float | None
    """Lower end of the 95 % interval; None if nothing is known about the variance of the difference."""
    high: float | None
    verdict: str
    """One of VERDICTS."""
    method: str
    """`Interval.method`; empty without an interval."""
    paired: bool
    """Whether seeds are paired; if not, the seeds of both arms count as independent."""
    base: float
    """The value that is subtracted: of the baseline, or of the previous stage."""
    own: float
    base_seeds: int
    """Number of seeds behind `base`."""
    seeds: int
    """Number of seeds behind `own`."""
    p: float | None = None
    """Two-sided p-value of no difference; None without an interval."""
    corrected: float | None = None
    """The p-value corrected for the number of differences at this stage end; None without a verdict on the order."""
    floor: float = 0.0
    """`Interval.floor`."""
    withheld: str = ""
    """Why there is no verdict on the order; empty if there is one."""
    notes: list[str] = field(default_factory=list)
    """What one side lacks and was left out."""


@dataclass(frozen=True)
class SeedValues:
    """A measure of an arm at a point: the seeds that have a value."""

    arm: Arm
    evaluated: list[Evaluated]
    """Seeds with a value, in the order of the arm's runs."""
    errors: list[str]
    """Error messages of the seeds without a value."""
    diverged: list[str]
    """Names of runs whose value is not a finite number."""

    @property
    def tasks(self) -> tuple[list[str], list[str]] | None:
        """See common_tasks."""
        return common_tasks(self.evaluated)


def seed_values(measure: Measure, arm: Arm, evaluated: Sequence[Evaluated]) -> SeedValues:
    """Return what is known about a measure of an arm from the runs that were evaluated at a point."""
    names = [run.name for run in arm.runs]
    with_value = [seed for seed in evaluated if has_value(seed.run, seed.record, measure.key)]
    failed = f"{measure.key.rsplit('/', 1)[0]}/error"
    return SeedValues(
        arm,
        sorted(with_value, key=lambda seed: names.index(seed.run.name)),
        [str(record[failed]) for _, record in evaluated if failed in record],
        [run.name for run, record in evaluated if is_non_finite(record, measure.key)],
    )


def compare(measure: Measure, first: SeedValues, second: SeedValues, answers: Answers) -> tuple[Gain | None, str]:
    """Return the difference of `second` from `first`; None, and why, if they have nothing in common to compare."""
    one, other, pairs, notes = _matched(first, second)
    if not one or not other:
        return None, "no pair of seeds has a value" if first.evaluated else f"{first.arm.name} has no value"
    tasks: list[str] = []
    if measure.key == AVERAGE:
        both = [*one, *other]
        found = common_tasks(both)
        if found is None and not same_benchmarks(both):
            return None, "averages of different tasks"
        tasks, missing = found or ([], [])
        if missing and not tasks:
            return None, "averages of different tasks"
        if missing:
            notes.append(f"over {len(tasks)} of {len(tasks) + len(missing)} tasks, without {listed(missing)}")
    sides = [read_side(measure.key, seeds, answers, tasks) for seeds in (one, other)]
    base, own = (float(side.means.mean()) for side in sides)
    found_interval = interval(sides[0], sides[1], own - base, pairs)
    withheld = _withheld(first, second, len(one) + len(other))
    word = verdict(measure, own - base, found_interval, withheld)
    gain = Gain(
        own - base, None, None, word, "", pairs, base, own, len(one), len(other), withheld=withheld, notes=notes
    )  # fmt: skip
    if found_interval is not None:
        ends = found_interval
        gain = replace(gain, low=ends.low, high=ends.high, method=ends.method, p=ends.p, floor=ends.floor)
    return gain, ""


def listed(tasks: Sequence[str]) -> str:
    """Return the names of task metrics such as bench/boolq/acc."""
    return ", ".join(task.removeprefix("bench/").rpartition("/")[0] for task in tasks)


def _matched(first: SeedValues, second: SeedValues) -> tuple[list[Evaluated], list[Evaluated], bool, list[str]]:
    """Return the seeds to compare on both sides, whether they are pairs, and a note on those left out."""
    if first.arm is not second.arm and not paired(first.arm.runs, second.arm.runs):
        return first.evaluated, second.evaluated, False, []
    known = [{_place(side, seed): seed for seed in side.evaluated} for side in (first, second)]
    places = [place for place in known[0] if place in known[1]]
    lone = sorted(known[0].keys() ^ known[1].keys())
    notes = []
    if places and lone:
        names = [side[place].run.name for place in lone for side in known if place in side]
        notes.append(f"without {', '.join(names)}, whose pair has no value")
    return [known[0][place] for place in places], [known[1][place] for place in places], True, notes


def _place(side: SeedValues, seed: Evaluated) -> int:
    return [run.name for run in side.arm.runs].index(seed.run.name)


def _withheld(first: SeedValues, second: SeedValues, runs: int) -> str:
    """Return why a difference says nothing about the order; empty if it does."""
    if runs == 2:
        return ONE_SEED
    if diverged := dict.fromkeys((*first.diverged, *second.diverged)):
        return f"{', '.join(diverged)}: the value is not a finite number"
    for arm in (first.arm, second.arm):
        known = [seed for seed in arm.seeds if seed is not None]
        if len(set(known)) < len(known):
            return f"runs of {arm.name} have the same seed"
    return ""
