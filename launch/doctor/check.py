"""A check, what it looks at, and what it finds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from launch.cluster.hosts import expand
from launch.cluster.machines import Cluster, Hostfile, Local
from launch.cluster.slurm import Slurm
from train.evaluation.harness.tasks import BenchmarkSettings
from train.settings import TrainSettings

if TYPE_CHECKING:
    from train.inputs import Inputs

OK, WARNING, FAILURE = "ok", "warning", "FAILED"

STAND_INS = {"data.tokens": "TOKENS", "data.order": "ORDER", "output": "runs/doctor", "arm": "doctor"}
"""Values of the required keys of `train` that were not given; a check that needs the real one is left out."""
ALLOCATED = ("SLURM_JOB_NODELIST", "SLURM_NODELIST")


@dataclass(frozen=True)
class Finding:
    """One line: what was found, and what to do about it unless it is ok."""

    level: str
    text: str
    remedy: str = ""
    about: str = ""
    """What the line is about, if the check has several."""

    def __post_init__(self) -> None:
        assert self.level == OK or self.remedy or ": " in self.text, f"no remedy: {self.text}"


def ok(text: str, about: str = "") -> Finding:
    """Return a finding that needs no action."""
    return Finding(OK, text, "", about)


def warning(text: str, remedy: str, about: str = "") -> Finding:
    """Return a finding with which a run works, but maybe not as intended."""
    return Finding(WARNING, text, remedy, about)


def failure(text: str, remedy: str, about: str = "") -> Finding:
    """Return a finding with which a run would fail or compute something else."""
    return Finding(FAILURE, text, remedy, about)


def refused(error: BaseException, about: str = "", remedy: str = "") -> Finding:
    """Return the failure that an error names. Errors of ours are a sentence that ends with the remedy."""
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    text = f"{kind}{' '.join(str(error).split())}"
    return Finding(FAILURE, text, remedy or ("" if ": " in text else "fix it and run pdpc doctor again"), about)


@dataclass(frozen=True)
class Subject:
    """What the checks look at: a run's settings, and where it is to run."""

    settings: TrainSettings = field(repr=False)
    overrides: list[str] = field(default_factory=list)
    """The words that the settings were composed from."""
    missing: frozenset[str] = frozenset()
    """Required keys that were not given; the settings have STAND_INS."""
    cluster: Cluster = field(default_factory=Local)
    as_node: bool = False
    """Is this the part of a doctor that was started on one of several nodes?"""
    node_checks: tuple[str, ...] = ()
    """Names of the checks to run on every node."""
    problem: str = ""
    """Why the settings could not be composed; they are then the defaults."""
    root: Path = Path("/")
    """The folder that holds /proc and /dev."""

    @property
    def described(self) -> bool:
        """Was a run described, by any of its settings?"""
        return bool(self.overrides)

    @property
    def hosts(self) -> list[str]:
        """The nodes of the cluster by name; empty for this machine, and for a job that has none yet."""
        if isinstance(self.cluster, Local):
            return []
        named = self.cluster.hosts if isinstance(self.cluster, Hostfile) else []
        lists = named or [os.environ[key] for key in ALLOCATED if key in os.environ][:1]
        return [name for text in lists for name in expand(text)]

    @property
    def gpus_asked(self) -> int | None:
        """GPUs that a node must have; None: whatever there is."""
        per_node = getattr(self.cluster, "gpus_per_node", None)
        return self.settings.processes if per_node is None else int(per_node)

    @property
    def local_ranks(self) -> int:
        """Ranks on one node."""
        from launch.cluster.supervisor import gpus

        return self.gpus_asked or max(1, gpus())

    @property
    def ranks(self) -> int:
        """Ranks of the run."""
        nodes = self.cluster.nodes if isinstance(self.cluster, Slurm) else len(self.hosts)
        return self.local_ranks * max(1, nodes)

    @property
    def output(self) -> Path:
        """The RUN folder; without one, a folder here."""
        return Path(self.settings.output).absolute()

    def has(self, *keys: str) -> bool:
        """Were these required keys given?"""
        return not self.missing & set(keys)

    @cached_property
    def inputs(self) -> Inputs | None:
        """The opened inputs of the run; None if they were not given or cannot be opened, which `artifacts` names."""
        from train.inputs import open_inputs

        if not self.has("data.tokens", "data.order"):
            return None
        try:
            return open_inputs(replace(self.settings, benchmarks=BenchmarkSettings()))
        except (ValueError, OSError):
            return None

    @property
    def folder(self) -> Path:
        """The nearest folder that exists at or above the RUN folder: the file system of the outputs."""
        return next(place for place in (self.output, *self.output.parents) if place.is_dir())


@dataclass(frozen=True)
class Check:
    """A row of the table."""

    group: str
    """The question; its checks are in launch/doctor/GROUP.py."""
    name: str
    about: str
    """What it checks, in one line."""
    limit_s: float = 30.0
    """Time limit, seconds."""
    once: bool = False
    """Checked once per cluster, on the machine of the command, and not on every node."""

    def load(self) -> Callable[[Subject], Iterator[Finding]]:
        """Import the check's function: `launch.doctor.GROUP:NAME`."""
        found: Callable[[Subject], Iterator[Finding]] = getattr(import_module(f"launch.doctor.{self.group}"), self.name)
        return found
