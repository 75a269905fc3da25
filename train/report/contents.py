"""What a report holds, before it is drawn or written."""

from __future__ import annotations

from dataclasses import dataclass, field

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
    runs: list[Run]
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
    """Sentences in the place of what cannot be shown: `scores`, `tokens`, `order/<arm>`, `plan/<arm>`."""

    def arms(self) -> list[str]:
        """Names of the arms that are held against the baseline."""
        return self.gains.arms[1:]
