"""The contents of a report, before drawing and writing."""

from __future__ import annotations

from dataclasses import dataclass, field

from train.report.arms import Arm
from train.report.fairness.differences import Difference
from train.report.gains import Gains
from train.report.records import Run
from train.report.summary import Throughput
from train.report.twins import Twins
from train.report.views import Exposure, Plan, Preferences


@dataclass(frozen=True)
class Report:
    """Everything shown by the page, the terminal table and the files."""

    title: str
    baseline: str
    arms: list[Arm]
    """Baseline first."""
    gains: Gains
    headlines: list[str]
    """For each arm: the headline, its confidence interval, and a summary of the benchmarks."""
    warnings: list[str]
    """Reasons why the comparison may be unfair or inconclusive."""
    notes: list[str]
    """Unfinished runs, torn files and missing data found while reading."""
    differences: list[Difference]
    """Settings and facts in which the arms differ, what may explain a difference of the results first."""
    throughputs: list[Throughput]
    sources: list[str] = field(default_factory=list)
    plans: dict[str, Plan] = field(default_factory=dict)
    exposures: dict[str, Exposure] = field(default_factory=dict)
    preferences: Preferences | None = None
    about: list[tuple[str, str]] = field(default_factory=list)
    """Model, data, orders and dates: labels and texts."""
    mix: list[str] = field(default_factory=list)
    """For each arm, how its mix of sources moves."""
    twins: list[Twins] = field(default_factory=list)
    """Orders with both their twins, and the parts of their effects."""
    missing: dict[str, str] = field(default_factory=dict)
    """Sentences shown instead of missing parts: `scores`, `tokens`, `order/<run>`, `plan/<arm>`."""

    @property
    def others(self) -> list[str]:
        """Names of the arms that are compared with the baseline."""
        return self.gains.arms[1:]

    @property
    def runs(self) -> list[Run]:
        """The runs of all arms, those of the baseline first."""
        return [run for arm in self.arms for run in arm.runs]

    def seeds(self, arm: str) -> int:
        """Return the number of runs of an arm."""
        return next(len(one.runs) for one in self.arms if one.name == arm)
