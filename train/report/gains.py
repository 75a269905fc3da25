"""The table of gains: every held-out loss and benchmark by stage, arm and baseline compared at the same tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from train.report.arms import Arm, paired
from train.report.intervals import Interval, Side, interval
from train.report.measures import Measure, measures_of
from train.report.records import Record, Run, finite
from train.report.sides import Answers, read_side

TOKEN_TOLERANCE = 0.005
"""Relative difference in tokens up to which stages are compared: padding falls at different steps in each order."""
UNDECIDED = "no significant difference"
NO_ERROR_BAR = "no error bar"
VERDICTS = ("better", "worse", UNDECIDED, "equal", NO_ERROR_BAR)


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


@dataclass(frozen=True)
class Cell:
    """One measure of one arm at one stage."""

    value: float | None
    """The mean over the seeds."""
    values: list[float]
    """By seed."""
    stderr: float | None
    """The recorded standard error; only with a single seed."""
    change: Gain | None
    """Relative to the previous stage of the same arm."""
    gain: Gain | None
    """Relative to the baseline at the same tokens; None for the baseline itself."""
    error: str
    """Why there is no value: the error message of a failed benchmark."""

    @property
    def seeds(self) -> int:
        """Number of seeds averaged in the value."""
        return len(self.values)

    @property
    def difference(self) -> float | None:
        """The gain's value; None if nothing is compared."""
        return None if self.gain is None else self.gain.value

    @property
    def verdict(self) -> str:
        """The gain's verdict; empty if nothing is compared."""
        return "" if self.gain is None else self.gain.verdict


@dataclass(frozen=True)
class Point:
    """One point of the comparison: the stage records of the arms that were evaluated at these tokens."""

    tokens: int
    evaluated: dict[str, list[Evaluated]]
    """By arm; runs that were not evaluated here are left out."""

    @property
    def stages(self) -> dict[str, int]:
        """The stage number in every arm that was evaluated here."""
        return {arm: int(seeds[0].record.get("stage", 0)) for arm, seeds in self.evaluated.items()}


@dataclass(frozen=True)
class Gains:
    """All cells: `cells[measure key][point number][arm]`."""

    baseline: str
    arms: list[str]
    """Baseline first."""
    measures: list[Measure]
    points: list[Point]
    cells: dict[str, list[dict[str, Cell]]]
    notes: list[str] = field(default_factory=list)
    """Which answers could not be used, and why."""

    def last_common(self, arm: str) -> int:
        """Return the index of the last point where both `arm` and the baseline were evaluated."""
        return max(i for i, p in enumerate(self.points) if arm in p.evaluated and self.baseline in p.evaluated)

    def final(self, arm: str, measure: Measure) -> Cell:
        """Return the cell of `measure` at the last point that `arm` shares with the baseline."""
        return self.cells[measure.key][self.last_common(arm)][arm]

    def final_baseline(self, arm: str, measure: Measure) -> Cell:
        """Return the baseline's cell at the same point as `final`."""
        return self.cells[measure.key][self.last_common(arm)][self.baseline]

    def in_group(self, group: str) -> list[Measure]:
        """Return the measures of one group, in table order."""
        return [measure for measure in self.measures if measure.group == group]

    def headline_measure(self) -> Measure:
        """Return the measure for the headline: the loss on all held-out text, or else the first measure."""
        return next((m for m in self.measures if m.key == "val/loss"), self.measures[0])


def compute(arms: Sequence[Arm], baseline: str) -> Gains:
    """Return the gains of every arm relative to the one named `baseline`.

    Raises ValueError if an arm shares no stage (no evaluation at the same tokens) with the baseline, or if an answers
    file is broken.
    """
    ordered = sorted(arms, key=lambda arm: arm.name != baseline)
    points = _points(ordered)
    for arm in ordered[1:]:
        if not any(arm.name in point.evaluated and baseline in point.evaluated for point in points):
            raise ValueError(
                f"runs.{arm.name} ({_places(arm)}) and the baseline {baseline} ({_places(ordered[0])}) have no stage "
                f"record in common (evaluated at {_tokens(arm)} and {_tokens(ordered[0])} tokens): "
                "train both to the end of the same stage first"
            )
    names = [arm.name for arm in ordered]
    measures = measures_of([record for arm in ordered for run in arm.runs for record in run.stages])
    if not measures:
        raise ValueError(
            f"the stage records of {', '.join(names)} hold no val/ or bench/ value: "
            "train with an evaluation at the end of each stage"
        )
    cells: dict[str, list[dict[str, Cell]]] = {measure.key: [] for measure in measures}
    answers = Answers()
    before: dict[tuple[str, str], SeedValues] = {}
    for point in points:
        for measure in measures:
            known = {
                arm: _seed_values(measure, point.evaluated[arm], answers) for arm in names if arm in point.evaluated
            }
            earlier = {arm: before.get((measure.key, arm)) for arm in known}
            row = {arm: _cell(measure, known[arm], earlier[arm], known.get(baseline), arm, baseline) for arm in known}
            cells[measure.key].append(row)
            before |= {(measure.key, arm): found for arm, found in known.items() if found.evaluated}
        answers.forget()
    return Gains(baseline, names, measures, points, cells, answers.notes)


def same_tokens(first: int, second: int) -> bool:
    """Tell whether two token counts belong to the same point (see TOKEN_TOLERANCE)."""
    return abs(first - second) <= TOKEN_TOLERANCE * max(first, second)


def verdict(measure: Measure, difference: float, found: Interval | None) -> str:
    """Return the verdict on a difference; one that is too small to show in the written numbers is `equal`."""
    visible = abs(difference) >= measure.resolution
    if found is not None and found.low <= 0 <= found.high and (visible or found.high - found.low > measure.resolution):
        return UNDECIDED
    if not visible:
        return "equal"
    if found is None:
        return NO_ERROR_BAR
    return "better" if (difference < 0) == measure.lower_is_better else "worse"


@dataclass(frozen=True)
class SeedValues:
    """A measure of an arm at a point: the seeds that have a value, and what is known about its variance."""

    evaluated: list[Evaluated]
    side: Side | None
    errors: list[str]
    """Error messages of the seeds without a value."""

    @property
    def runs(self) -> list[Run]:
        """The runs that have a value."""
        return [run for run, _ in self.evaluated]


def _seed_values(measure: Measure, evaluated: Sequence[Evaluated], answers: Answers) -> SeedValues:
    with_value = [seed for seed in evaluated if finite(seed.record, measure.key) is not None]
    side = read_side(measure.key, with_value, answers) if with_value else None
    failed = f"{measure.key.rsplit('/', 1)[0]}/error"
    return SeedValues(with_value, side, [str(record[failed]) for _, record in evaluated if failed in record])


def _cell(
    measure: Measure, known: SeedValues, before: SeedValues | None, base: SeedValues | None, arm: str, baseline: str
) -> Cell:
    side = known.side
    if side is None:
        return Cell(None, [], None, None, None, known.errors[0] if known.errors else "")
    change = gain = None
    if before is not None and before.side is not None:
        same = [run.name for run in before.runs] == [run.name for run in known.runs]
        change = _gain(measure, before.side, side, same)
    if arm != baseline and base is not None and base.side is not None:
        gain = _gain(measure, base.side, side, paired(base.runs, known.runs))
    stderr = side.error if len(side.means) == 1 else None
    return Cell(float(np.mean(side.means)), side.means.tolist(), stderr, change, gain, "")


def _gain(measure: Measure, first: Side, second: Side, pairs: bool) -> Gain:
    difference = float(second.means.mean() - first.means.mean())
    found = interval(first, second, difference, pairs)
    word = verdict(measure, difference, found)
    if found is None:
        return Gain(difference, None, None, word, "", pairs)
    return Gain(difference, found.low, found.high, word, found.method, pairs)


def _points(arms: Sequence[Arm]) -> list[Point]:
    """Group stage records by tokens; the baseline comes first, so its token counts define the points it has."""
    points: list[Point] = []
    for arm in arms:
        for run in arm.runs:
            for record in run.stages:
                _place(points, arm.name, Evaluated(run, record))
    return sorted(points, key=lambda point: point.tokens)


def _place(points: list[Point], arm: str, seed: Evaluated) -> None:
    """Add a record to the nearest point at the same tokens that has no record of its run yet, or to a new point."""
    tokens = int(seed.record["tokens"])
    near = [
        point
        for point in points
        if same_tokens(point.tokens, tokens)
        and all(run.name != seed.run.name for run, _ in point.evaluated.get(arm, []))
    ]
    if near:
        min(near, key=lambda point: abs(point.tokens - tokens)).evaluated.setdefault(arm, []).append(seed)
    else:
        points.append(Point(tokens, {arm: [seed]}))


def _tokens(arm: Arm) -> str:
    found = [str(record["tokens"]) for run in arm.runs for record in run.stages]
    return ", ".join(dict.fromkeys(found)) or "no"


def _places(arm: Arm) -> str:
    return ", ".join(str(run.folder) for run in arm.runs)


def failed_tasks(record: Mapping[str, object]) -> list[str]:
    """Return the tasks that failed according to a stage record, by `stage/failed` or by an error of the task."""
    listed = [name.strip() for name in str(record.get("stage/failed", "")).split(",") if name.strip()]
    own = [
        key.removeprefix("bench/").removesuffix("/error")
        for key in record
        if key.startswith("bench/") and key.endswith("/error")
    ]
    return list(dict.fromkeys([*listed, *own]))
