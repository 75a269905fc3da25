"""What a report holds, before it is drawn or written."""

from __future__ import annotations

from dataclasses import dataclass, field

from train.report.arms import Arm
from train.report.fairness import Difference
from train.report.gains import Gains
from train.report.records import Run
from train.report.summary import Throughput
from train.report.views import Exposure, Plan, Preferences


@dataclass(frozen=True)
class Report:
    """Everything that the page, the table and the files show."""

    title: str
    baseline: str
    arms: list[Arm]
    """Baseline first."""
    gains: Gains
    headlines: list[str]
    """One sentence an arm, and what its benchmarks say."""
    warnings: list[str]
    """What makes the comparison unfair or doubtful."""
    notes: list[str]
    """What was found unfinished, torn or missing while reading."""
    differences: list[Difference]
    throughputs: list[Throughput]
    sources: list[str] = field(default_factory=list)
    plans: dict[str, Plan] = field(default_factory=dict)
    exposures: dict[str, Exposure] = field(default_factory=dict)
    preferences: Preferences | None = None
    missing: dict[str, str] = field(default_factory=dict)
    """Sentences in the place of what cannot be shown: `scores`, `tokens`, `order/<run>`, `plan/<arm>`."""

    @property
    def others(self) -> list[str]:
        """Names of the arms that are held against the baseline."""
        return self.gains.arms[1:]

    @property
    def runs(self) -> list[Run]:
        """The runs of all arms, the baseline's first."""
        return [run for arm in self.arms for run in arm.runs]

    def seeds(self, arm: str) -> int:
        """How many runs the arm has."""
        return next(len(one.runs) for one in self.arms if one.name == arm)
