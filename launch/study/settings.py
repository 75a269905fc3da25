"""Settings of `pdpc study`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from launch.cluster.machines import Cluster, Local
from launch.cluster.slurm import Slurm


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
    """Most steps that run at the same time here; null: as many as the CPUs (or GPUs) have room for."""
    tokens_per_s: float | None = None
    """Speed of one training run, for the hours in the plan; null: as measured in this study."""
    cluster: Cluster = field(default_factory=Local)
    """Where to run: local (cluster.gpus_per_node: GPUs to share out), or slurm, which queues one job per step."""
    dry_run: bool = False
    """With cluster=slurm: print the batch scripts, and submit nothing (--dry-run)."""
    step: str | None = None
    """Run only this step, as the jobs of cluster=slurm do; page: only write the page."""
    own_code: bool = False
    """Run the Python code that the study names: preferences (FILE.py:CLASS) and task files (benchmarks.task_paths)."""

    def __post_init__(self) -> None:
        if self.at_once is not None and self.at_once < 1:
            raise ValueError(f"at_once={self.at_once} must be at least 1, or null for as many as there is room for")
        if self.tokens_per_s is not None and not self.tokens_per_s > 0:
            raise ValueError(f"tokens_per_s={self.tokens_per_s} must be greater than 0")
        if isinstance(self.cluster, Slurm):
            self._check_slurm(self.cluster)
        elif not isinstance(self.cluster, Local):
            raise ValueError("cluster: a study runs on this machine or by Slurm's queue: use local or slurm")
        elif self.dry_run:
            raise ValueError("dry_run=true has no effect without cluster=slurm: use plan=true")

    def _check_slurm(self, where: Slurm) -> None:
        if where.nodes > 1 or where.ssh:
            raise ValueError(
                "cluster.nodes and cluster.ssh have no effect: every run of a study has one node; remove them"
            )
        for key in ("at_once", "step"):
            if getattr(self, key) is not None:
                raise ValueError(f"{key}={getattr(self, key)} has no effect with cluster=slurm: remove it")

    @property
    def folder(self) -> Path:
        """The output folder."""
        return Path(self.output) if self.output else Path("studies") / Path(self.file).stem
