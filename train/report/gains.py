"""The table of gains: every held-out loss and benchmark, by stage, arm beside baseline at the same tokens."""

import math
from dataclasses import dataclass

from train.report.measures import Measure, measures_of
from train.report.records import Record, Run, finite

TOKEN_TOLERANCE = 0.005
"""Stages count as being at the same tokens within this share: padded samples fall at other steps in another order."""


@dataclass(frozen=True)
class Cell:
    """One measure of one arm at one stage. Differences are value minus value: for a loss, below zero is better."""

    value: float | None
    stderr: float | None
    change: float | None
    """Against the previous stage of the same arm."""
    difference: float | None
    """Against the baseline at the same tokens; None for the baseline itself."""
    noise: float | None
    """Two combined standard errors, 2 sqrt(a^2 + b^2); None when a standard error is missing."""
    verdict: str
    """`better`, `worse`, `equal`, `within noise`, `no error bar` (a benchmark without one); empty: not compared."""
    error: str
    """Why there is no value: the message of a failed benchmark."""


@dataclass(frozen=True)
class Point:
    """One moment of the comparison: the stage records of the arms that were evaluated at these tokens."""

    tokens: int
    records: dict[str, Record]

    @property
    def stages(self) -> dict[str, int]:
        """The number of the stage in every arm that has one here."""
        return {arm: int(record.get("stage", 0)) for arm, record in self.records.items()}


@dataclass(frozen=True)
class Gains:
    """All cells: `cells[measure key][point number][arm]`."""

    baseline: str
    arms: list[str]
    """Baseline first."""
    measures: list[Measure]
    points: list[Point]
    cells: dict[str, list[dict[str, Cell]]]

    def last_common(self, arm: str) -> int:
        """Number of the last point where both `arm` and the baseline were evaluated."""
        return max(i for i, p in enumerate(self.points) if arm in p.records and self.baseline in p.records)

    def final(self, arm: str, measure: Measure) -> Cell:
        """The cell of `measure` at the last point that `arm` shares with the baseline."""
        return self.cells[measure.key][self.last_common(arm)][arm]

    def in_group(self, group: str) -> list[Measure]:
        """The measures of one group, in the order of the table."""
        return [measure for measure in self.measures if measure.group == group]

    def headline_measure(self) -> Measure:
        """What the one sentence is about: the loss on all held-out text, or the first measure there is."""
        return next((m for m in self.measures if m.key == "val/loss"), self.measures[0])


def compute(runs: list[Run], baseline: str) -> Gains:
    """The gains of every run against the one named `baseline`.

    Raises ValueError when a run shares no stage (no evaluation at the same tokens) with the baseline.
    """
    ordered = sorted(runs, key=lambda run: run.name != baseline)
    points = _points(ordered)
    for run in ordered[1:]:
        if not any(run.name in point.records and baseline in point.records for point in points):
            raise ValueError(
                f"runs.{run.name} ({run.folder}) and the baseline {baseline} ({ordered[0].folder}) have no stage "
                f"record in common: evaluated at {_evaluated(run)} and {_evaluated(ordered[0])} tokens; "
                "train both to the end of the same stage first"
            )
    measures = measures_of([record for run in ordered for record in run.stages])
    if not measures:
        raise ValueError(
            f"the stage records of {', '.join(run.name for run in ordered)} hold no val/ or bench/ value: "
            "train with an evaluation at the end of a stage"
        )
    arms = [run.name for run in ordered]
    cells = {measure.key: _cells(measure, arms, points) for measure in measures}
    return Gains(baseline, arms, measures, points, cells)


def same_tokens(first: int, second: int) -> bool:
    """Whether two token counts are one moment of training (see TOKEN_TOLERANCE)."""
    return abs(first - second) <= TOKEN_TOLERANCE * max(first, second)


def verdict(measure: Measure, difference: float, noise: float | None) -> str:
    """What a difference to the baseline is worth; one that cannot be seen in the written numbers is `equal`."""
    if noise is not None and abs(difference) < noise:
        return "within noise"
    if abs(difference) < measure.resolution:
        return "equal"
    if noise is None and measure.group == "benchmark":
        return "no error bar"
    return "better" if (difference < 0) == measure.lower_is_better else "worse"


def standard_error(record: Record, key: str) -> float | None:
    """The standard error that the record gives for `key`.

    For `bench/avg` without one: sqrt(sum of squares) / n over the tasks, when their mean is the average; the tasks ask
    different questions, so their errors are independent.
    """
    stderr = finite(record, f"{key}_stderr")
    if stderr is not None or key != "bench/avg":
        return stderr
    average = finite(record, key)
    errors = {k: v for k in record if k.endswith("_stderr") and (v := finite(record, k)) is not None}
    for metric in ("acc", "acc_norm"):
        pairs = {k: v for k, v in errors.items() if k.endswith(f"/{metric}_stderr")}
        values = [finite(record, k.removesuffix("_stderr")) for k in pairs]
        known = [value for value in values if value is not None]
        if (
            average is not None
            and known
            and len(known) == len(values)
            and abs(sum(known) / len(known) - average) < 1e-6
        ):
            return math.hypot(*pairs.values()) / len(pairs)
    return None


def _points(runs: list[Run]) -> list[Point]:
    """Stage records by tokens; the baseline comes first, so its counts name the points that it has."""
    points: list[Point] = []
    for run in runs:
        for record in run.stages:
            tokens = int(record["tokens"])
            open_points = [p for p in points if run.name not in p.records and same_tokens(p.tokens, tokens)]
            if open_points:
                min(open_points, key=lambda p: abs(p.tokens - tokens)).records[run.name] = record
            else:
                points.append(Point(tokens, {run.name: record}))
    return sorted(points, key=lambda point: point.tokens)


def _cells(measure: Measure, arms: list[str], points: list[Point]) -> list[dict[str, Cell]]:
    previous: dict[str, float] = {}
    rows: list[dict[str, Cell]] = []
    for point in points:
        row: dict[str, Cell] = {}
        for arm in arms:
            if arm not in point.records:
                continue
            record = point.records[arm]
            value = finite(record, measure.key)
            before = previous.get(arm)
            change = None if value is None or before is None else value - before
            if value is not None:
                previous[arm] = value
            row[arm] = _cell(measure, record, value, change, row.get(arms[0]) if arm != arms[0] else None)
        rows.append(row)
    return rows


def _cell(measure: Measure, record: Record, value: float | None, change: float | None, base: Cell | None) -> Cell:
    stderr = standard_error(record, measure.key)
    error = ""
    if value is None:
        error = str(record.get(f"{measure.key.rsplit('/', 1)[0]}/error", ""))
    if value is None or base is None or base.value is None:
        return Cell(value, stderr, change, None, None, "", error)
    difference = value - base.value
    noise = None
    if stderr is not None and base.stderr is not None:
        noise = 2 * math.hypot(stderr, base.stderr)
    return Cell(value, stderr, change, difference, noise, verdict(measure, difference, noise), error)


def _evaluated(run: Run) -> str:
    return ", ".join(str(record["tokens"]) for record in run.stages) or "no"
