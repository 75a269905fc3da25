"""`pdpc launch`: start a training run on one machine, on a list of nodes, or through Slurm.

    pdpc launch experiment=pdpc_1.3b                                                   all GPUs of this machine
    pdpc launch cluster=hostfile 'cluster.hosts=["gpu[01-04]"]' experiment=pdpc_1.3b   nodes with ssh between them
    pdpc launch cluster=slurm cluster.nodes=4 experiment=pdpc_1.3b --dry-run           write the script, start nothing

Keys that are not keys of `launch` are overrides of `train`: they are checked here, before anything is queued.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from launch.cluster.machines import Cluster, Hostfile, Local, Start
from launch.cluster.remote import keep_alive
from launch.cluster.slurm import Slurm

OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_][\w./@-]*(=.*)?")

OWN = ("hostfile*", "deepspeed_env", "secret", "node.sh", "train.sbatch", "roll.*", ".*.tmp-*")
"""Patterns of what `pdpc launch` and its scripts write to the folder `scripts`."""

SSH_OPTIONS = "PDSH_SSH_ARGS_APPEND"
"""Environment variable of pdsh."""

CLUSTERS: dict[str, type[Cluster]] = {"local": Local, "hostfile": Hostfile, "slurm": Slurm}


@dataclass(frozen=True)
class LaunchSettings:
    """Settings of `pdpc launch`."""

    cluster: Cluster = field(default_factory=Local)
    """Where to run: local, hostfile or slurm."""
    scripts: str = "runs/launch"
    """Folder for the hostfile, the batch script and its logs; must be visible to all nodes."""
    dry_run: bool = False
    """Write the files and print the command without starting anything."""
    overrides: list[str] = field(default_factory=list)
    """Overrides for `train`; on the command line, every key that is not a key of `launch`."""

    def __post_init__(self) -> None:
        for one in self.overrides:
            if not one.isprintable() or not OVERRIDE.fullmatch(one):
                raise ValueError(f"{one!r} is not an override of train: write key=value")


@dataclass(frozen=True)
class Training:
    """A run that `train` would accept."""

    overrides: list[str]
    output: str
    hang_timeout_s: float
    finished: bool = False
    """Is there nothing to do?"""


def split_overrides(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split a command line into the overrides for `launch` and those for `train`."""
    own = {one.name for one in fields(LaunchSettings)}
    mine = [word for word in words if re.split(r"[.=]", word.lstrip("+~"), maxsplit=1)[0] in own]
    return mine, [word for word in words if word not in mine]


def shown_training(overrides: Sequence[str]) -> str:
    """Return the run's composed configuration with the origin of every value, as a second YAML document."""
    from train.config.compose import configuration_of
    from train.settings import TrainSettings

    note = "# settings of the run (pdpc train); on Slurm, grace_s follows cluster.signal_s unless it is set"
    return f"---\n{note}\n{configuration_of('train', TrainSettings, overrides)}"


def run(settings: LaunchSettings) -> int:
    """Write the scripts, print the command, and start the run unless dry_run is set; return the exit code.

    Raises ValueError before anything starts when the run's settings are invalid or a program is missing.
    """
    from curriculum.artifact.files import write_text
    from curriculum.artifact.outputs import BYSTANDERS, check_free
    from train.distributed.secret import write_secret

    training = check_training(settings.overrides, settings.cluster)
    if training.finished:
        print(f"run {training.output} is finished: reused")
        return 0
    folder = Path(settings.scripts).absolute()
    start = settings.cluster.plan(training.overrides, folder)
    if start.remote is not None:
        alive = keep_alive(training.hang_timeout_s, os.environ.get(SSH_OPTIONS, ""))
        start = replace(start, environment={**start.environment, SSH_OPTIONS: alive})
    if start.files:
        check_free("scripts", folder, (*OWN, *BYSTANDERS))
    for path, text in start.files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
        print(f"wrote {path}")
    if start.secret is not None:
        write_secret(start.secret)
    variables = [f"{name}={shlex.quote(value)}" for name, value in start.environment.items() if value]
    print("start it with:")
    for line in start.by_hand or [" ".join([*variables, shlex.join(start.command)])]:
        print(f"  {line}", flush=True)  # before what the command prints
    if settings.dry_run:
        return 0
    return _execute(start)


def check_training(overrides: Sequence[str], where: Cluster) -> Training:
    """Check here, rather than after a day in the queue, what `train` would reject: settings, data, batch, tasks, disk.

    On Slurm, grace_s is derived from cluster.signal_s unless an override or an experiment sets it.
    """
    from train.config.compose import compose
    from train.preflight import check_run
    from train.settings import TrainSettings

    settings = compose("train", TrainSettings, overrides)
    ranks = where.ranks()
    if settings.processes not in (None, ranks):
        raise ValueError(f"processes={settings.processes}, but the cluster starts {ranks} ranks: omit processes")
    words = list(overrides)
    if isinstance(where, Slurm):
        where.check_grace(settings.grace_s)
        given = any(word.lstrip("+~").partition("=")[0] == "grace_s" for word in words)
        if not given and settings.grace_s == TrainSettings.grace_s:
            words.append(f"grace_s={where.longest_grace_s}")
    checked = check_run(settings, ranks)
    return Training(words, settings.output, settings.hang_timeout_s, checked.finished)


def _execute(start: Start) -> int:
    if start.by_hand:
        raise ValueError(
            "cluster.ssh=false cannot start the nodes: run the commands above, one on each node, or add --dry-run"
        )
    program = start.command[0]
    if shutil.which(program) is None:
        raise ValueError(
            f"{program} is not installed here: run this on a machine that has it, or add --dry-run to only write files"
        )
    if start.remote is not None and shutil.which("pdsh") is None:
        raise ValueError(
            "DeepSpeed starts the other nodes with pdsh, which is not installed: install pdsh or use cluster.ssh=false"
        )
    if program == "sbatch":
        return subprocess.run(start.command, check=False).returncode
    from launch.cluster.supervisor import supervise
    from train.distributed.heartbeat import SUPERVISOR

    environment = {**os.environ, **start.environment}
    if start.remote is None:
        environment[SUPERVISOR] = str(os.getpid())  # process ids are only valid on this machine
    return supervise(start.command, environment, remote=start.remote)
