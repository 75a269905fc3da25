"""Settings of `pdpc study`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class StudySettings:
    """Settings of `pdpc study STUDY.yaml`."""

    file: str
    """The study: a YAML file (docs/studies.md)."""
    output: str | None = None
    """Folder of everything that the study makes; null: studies/NAME, after the file's name."""
    plan: bool = False
    """Show what would run, and start nothing (--plan)."""
    at_once: int | None = None
    """Most steps that run at the same time; null: as many as the CPUs (or GPUs) have room for."""
    tokens_per_s: float | None = None
    """Speed of one training run, for the hours in the plan; null: as measured in this study."""
    task_code: bool = False
    """Run the Python code of task files that the study names (benchmarks.task_paths)."""

    def __post_init__(self) -> None:
        if self.at_once is not None and self.at_once < 1:
            raise ValueError(f"at_once={self.at_once} must be at least 1, or null for as many as there is room for")
        if self.tokens_per_s is not None and not self.tokens_per_s > 0:
            raise ValueError(f"tokens_per_s={self.tokens_per_s} must be greater than 0")

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path(self.output) if self.output else Path("studies") / Path(self.file).stem
