"""The table of gains: every held-out loss and benchmark by stage, arm and baseline compared at the same tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from train.report.arms import Arm
from train.report.comparison import Evaluated, Gain, SeedValues, compare, seed_values
from train.report.measures import Measure, measures_of
from train.report.sides import AVERAGE, BITS, NATS, Answers, read_side, same_benchmarks
from train.report.verdicts import LEVEL, SUGGESTIVE, holm

TOKEN_TOLERANCE = 0.005
"""Relative difference in tokens up to which stages are compared: padding falls at different steps in each order."""
PRIMARY = "val/loss"
"""The measure of the headline: it is chosen in advance, so it is not corrected for the number of the others."""


@dataclass(frozen=True)
class Cell:
    """One measure of one arm at one stage."""

    value: float | None
    """The mean over the seeds."""
    values: list[float]
    """By seed."""
    stderr: float | None
    """Standard error of a benchmark over its items; only with a single seed."""
    change: Gain | None
    """Relative to the previous stage of the same arm."""
    gain: Gain | None
    """Relative to the baseline at the same tokens; None for the baseline itself."""
    error: str
    """Why there is no value: the error message of a failed benchmark."""
    note: str = ""
    """Why the value is not compared with the baseline; empty if it is, and for the baseline itself."""

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
    ungrouped: list[str] = field(default_factory=list)
    """Runs whose answers do not say which items belong together: their intervals are too narrow."""
    target: str | None = None
    """The source whose held-out loss is the primary measure; None: all held-out text."""

    def last_common(self, arm: str) -> int:
        """Return the index of the last point where both `arm` and the baseline were evaluated."""
        return max(i for i, p in enumerate(self.points) if arm in p.evaluated and self.baseline in p.evaluated)

    def final(self, arm: str, measure: Measure) -> Cell:
        """Return the cell of `measure` at the last point that `arm` shares with the baseline."""
        return self.cells[measure.key][self.last_common(arm)][arm]

    def in_group(self, group: str) -> list[Measure]:
        """Return the measures of one group, in table order."""
        return [measure for measure in self.measures if measure.group == group]

    def headline_measure(self) -> Measure:
        """Return the primary measure: the target's loss, or else that on all held-out text, or else the first."""
        return _primary(self.measures, self.target)


def compute(
    arms: Sequence[Arm],
    baseline: str,
    answers: Answers | None = None,
    primary: tuple[str, str] | None = None,
    target: str | None = None,
) -> Gains:
    """Return the gains of every arm relative to the one named `baseline`; `answers` reads per-item answers.

    `target`: the source whose loss is the headline's measure; None: all held-out text. `primary`: the key of a measure
    and the name of an arm, the one comparison that is not corrected for the number of the others; None: all arms' on
    the headline's measure, corrected for the number of arms. Raises ValueError if an arm shares no stage (no evaluation
    at the same tokens) with the baseline, if the runs have no held-out loss of the target, or if an answers file is
    broken.
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
    headline = _primary(measures, target).key
    rows: list[dict[str, dict[str, Cell]]] = []
    answers = answers or Answers()
    before: dict[tuple[str, str], SeedValues] = {}
    for point in points:
        row: dict[str, dict[str, Cell]] = {}
        for measure in measures:
            known = {
                arm.name: seed_values(measure, arm, point.evaluated[arm.name])
                for arm in ordered
                if arm.name in point.evaluated
            }
            base = known.get(baseline)
            row[measure.key] = {
                arm: _cell(measure, found, before.get((measure.key, arm)), None if arm == baseline else base, answers)
                for arm, found in known.items()
            }
            before |= {(measure.key, arm): found for arm, found in known.items() if found.evaluated}
        rows.append(_corrected(row, {primary} if primary else {(headline, arm) for arm in names}))
        answers.forget()
    cells = {measure.key: [row[measure.key] for row in rows] for measure in measures}
    return Gains(baseline, names, measures, points, cells, answers.notes, answers.ungrouped, target)


def same_tokens(first: int, second: int) -> bool:
    """Tell whether two token counts belong to the same point (see TOKEN_TOLERANCE)."""
    return abs(first - second) <= TOKEN_TOLERANCE * max(first, second)


def _cell(
    measure: Measure, known: SeedValues, before: SeedValues | None, base: SeedValues | None, answers: Answers
) -> Cell:
    if not known.evaluated:
        return Cell(None, [], None, None, None, known.errors[0] if known.errors else "")
    shared = (known.tasks or ([], []))[0] if measure.key == AVERAGE else []
    side = read_side(measure.key, known.evaluated, answers, shared)
    change = gain = None
    note = ""
    if before is not None:
        change, _ = compare(measure, before, known, answers)
    if base is not None:
        gain, note = compare(measure, base, known, answers)
    elif measure.key == AVERAGE and not shared and not same_benchmarks(known.evaluated):
        note = "a mean of averages of different tasks"
    stderr = side.error if len(side.means) == 1 and measure.group == "benchmark" else None
    return Cell(float(np.mean(side.means)), side.means.tolist(), stderr, change, gain, "", note)


def _primary(measures: Sequence[Measure], target: str | None) -> Measure:
    if target is None:
        return next((measure for measure in measures if measure.key == PRIMARY), measures[0])
    by_source = {measure.label: measure for measure in measures if measure.group == "source" and measure.unit == "nats"}
    if target not in by_source:
        known = ", ".join(by_source) or "none"
        raise ValueError(f"target={target}: the runs have no held-out loss of this source; they have those of {known}")
    return by_source[target]


def _corrected(row: dict[str, dict[str, Cell]], primary: set[tuple[str, str]]) -> dict[str, dict[str, Cell]]:
    """Return the cells of a stage end, by measure and arm, with verdicts corrected for the number of differences.

    The primary differences, by measure and arm, are one family, all others are the second. Bits per byte are not
    counted: they are the loss in other units, and get its p-value.
    """
    tested = {
        (key, arm): cell.gain.p
        for key, cells in row.items()
        for arm, cell in cells.items()
        if cell.gain is not None and cell.gain.p is not None and not cell.gain.withheld
    }
    corrected: dict[tuple[str, str], float] = {}
    counted = [where for where in tested if (_as_loss(where[0]), where[1]) not in tested]
    for first in (True, False):
        family = [where for where in counted if (where in primary) == first]
        corrected |= zip(family, holm([tested[where] for where in family]), strict=True)
    for key, arm in tested:
        cell = row[key][arm]
        assert cell.gain is not None
        p = corrected.get((key, arm), corrected.get((_as_loss(key), arm)))
        word = SUGGESTIVE if p is not None and p > LEVEL and cell.verdict in ("better", "worse") else cell.verdict
        row[key][arm] = replace(cell, gain=replace(cell.gain, corrected=p, verdict=word))
    return row


def _as_loss(key: str) -> str:
    """Return the loss that a measure in bits per byte is computed from; empty for other measures."""
    return key.removesuffix(BITS) + NATS if key.endswith(BITS) else ""


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
