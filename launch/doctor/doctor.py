"""`pdpc doctor`: check this machine, or every node, before a run needs them.

    pdpc doctor                                                              this machine
    pdpc doctor experiment=pdpc_1.3b data.tokens=tokens data.order=order     and this run on it
    pdpc doctor cluster=hostfile 'cluster.hosts=["gpu[01-04]"]' ...          on all these nodes, over ssh
    pdpc doctor only=[benchmarks] benchmarks.tasks=[arc_easy]                will these benchmarks run?
    pdpc doctor --faults                                                     fault points for failure drills

Keys that are not keys of `doctor` are overrides of `train`. One line per finding: ok, warning or FAILED, with the
remedy. The exit code is 1 if anything failed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from launch.cluster.machines import Cluster, Local
from launch.doctor.check import STAND_INS, Subject
from launch.doctor.checks import selected
from train.faults import listed


@dataclass(frozen=True)
class DoctorSettings:
    """Settings of `pdpc doctor`."""

    faults: bool = False
    """List the points at which PDPC_FAULT can inject a failure, and check nothing."""
    only: list[str] = field(default_factory=list)
    """Checks to run, by group (config, versions, gpus, host, filesystem, network, services, artifacts, benchmarks,
    step, cluster) or by name (docs/doctor.md); empty: all."""
    skip: list[str] = field(default_factory=list)
    """Checks to leave out, by group or by name."""
    timeout_s: float | None = None
    """Time limit of every check, seconds; null: each check's own (docs/doctor.md)."""
    cluster: Cluster = field(default_factory=Local)
    """Where to check: local (this machine), hostfile (its nodes, over ssh; in a Slurm allocation all of its nodes, with
    srun), or slurm (in an allocation)."""
    as_node: bool = False
    """Check as one node of a cluster, as a doctor does that was started by another one."""
    overrides: list[str] = field(default_factory=list)
    """Overrides for `train`; on the command line, every key that is not a key of `doctor`."""

    def __post_init__(self) -> None:
        selected(self.only, self.skip)
        if self.timeout_s is not None and not self.timeout_s > 0:
            raise ValueError(f"timeout_s={self.timeout_s} must be above 0 seconds, or null")


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into the overrides for `doctor` and those for `train`."""
    own = {one.name for one in fields(DoctorSettings)}
    mine = [word for word in words if re.split(r"[.=]", word.lstrip("+~"), maxsplit=1)[0] in own]
    return mine, [word for word in words if word not in mine]


def run(settings: DoctorSettings) -> int:
    """Print one line per finding; return 1 if anything failed, else 0."""
    if settings.faults:
        print("\n".join(listed()))
        return 0
    from launch.doctor.examine import examine

    return examine(subject_of(settings), selected(settings.only, settings.skip), settings.timeout_s)


def subject_of(settings: DoctorSettings) -> Subject:
    """Compose the run's settings; what is wrong with them becomes a finding, next to those about the machine."""
    from train.config.compose import SettingsError, compose_partly
    from train.settings import TrainSettings

    words, problem = settings.overrides or ["tracker=none"], ""
    try:
        training, missing = compose_partly("train", TrainSettings, words, STAND_INS)
    except SettingsError as error:
        problem, words = str(error), ["tracker=none"]
        training, missing = compose_partly("train", TrainSettings, words, STAND_INS)
    return Subject(
        training,
        list(settings.overrides),
        frozenset(missing),
        settings.cluster,
        as_node=settings.as_node,
        problem=problem,
    )
