"""Clusters without a queue: this machine, or a list of nodes."""

from __future__ import annotations

import os
import re
import secrets
import shlex
import shutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from launch.cluster.hosts import expand, hostfile
from launch.cluster.remote import Remote
from launch.cluster.supervisor import ON_THIS_MACHINE
from train.config.safe_path import safe_variables
from train.distributed.heartbeat import VARIABLE as ROLL
from train.distributed.secret import VARIABLE as SECRET

PLAIN = re.compile(r"[\w@%+=:,./~-]*")
"""Words that a second shell, such as the remote one behind pdsh, leaves unchanged."""
VARIABLE = re.compile(r"[A-Za-z_]\w*", re.ASCII)


@dataclass(frozen=True)
class Start:
    """How to start a run: files to write first, then one command, or commands to type on each node."""

    command: list[str] = field(default_factory=list)
    files: dict[Path, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    by_hand: list[str] = field(default_factory=list)
    secret: Path | None = None
    """File for the secret of the ranks, readable only by this user; None: they need none."""
    remote: Remote | None = None
    """The ranks, if the command starts them on other machines over ssh."""


@dataclass(frozen=True)
class Cluster(ABC):
    """Where to start a run, selected with `cluster=NAME`."""

    @abstractmethod
    def plan(self, overrides: Sequence[str], folder: Path) -> Start:
        """Return how to start `train` with these overrides; files are written to `folder` (absolute)."""

    @abstractmethod
    def ranks(self) -> int:
        """Return how many ranks it starts."""


@dataclass(frozen=True)
class Local(Cluster):
    """This machine."""

    gpus_per_node: int | None = None
    """Number of processes; null: one per GPU."""

    def __post_init__(self) -> None:
        if self.gpus_per_node is not None:
            check_least("gpus_per_node", self.gpus_per_node)

    def ranks(self) -> int:
        """Return how many ranks it starts: one per GPU of this machine by default, or one without a GPU."""
        from launch.cluster.supervisor import gpus

        return self.gpus_per_node or max(1, gpus())

    def plan(self, overrides: Sequence[str], folder: Path) -> Start:
        """Return the command of DeepSpeed's launcher on this machine."""
        processes = [] if self.gpus_per_node is None else ["--num_gpus", str(self.gpus_per_node)]
        return Start([deepspeed(), *ON_THIS_MACHINE, *processes, *training(overrides)], environment=safe_variables())


@dataclass(frozen=True)
class Hostfile(Cluster):
    """A list of nodes that share the file system and the Python environment."""

    hosts: list[str] = field(default_factory=list)
    """Node names or ranges, such as gpu[01-04]; empty: the nodes of the current Slurm job."""
    gpus_per_node: int = 8
    """Processes on each node."""
    ssh: bool = True
    """Start the other nodes with pdsh over ssh; false: print one command to run on each node."""
    master_port: int = 29500
    """Free port on the first node."""
    environment: dict[str, str] = field(default_factory=dict)
    """Environment variables for the ranks, in addition to NCCL_* and PYTHON*, which DeepSpeed forwards."""

    def __post_init__(self) -> None:
        check_least("gpus_per_node", self.gpus_per_node)
        if not 1024 <= self.master_port <= 65535:
            raise ValueError(f"cluster.master_port={self.master_port} must be between 1024 and 65535")
        check_environment(self.environment)
        self._expanded(self.hosts)

    def names(self) -> list[str]:
        """Return the nodes in the order of their ranks. Raises ValueError if none are given or allocated."""
        allocated = [os.environ[key] for key in ("SLURM_JOB_NODELIST", "SLURM_NODELIST") if key in os.environ][:1]
        names = self._expanded(self.hosts or allocated)
        if not names:
            raise ValueError(
                "cluster.hosts is empty and this is not a Slurm job: give 'cluster.hosts=[\"gpu[01-04]\"]'"
            )
        return names

    def ranks(self) -> int:
        """Return how many ranks it starts."""
        return len(self.names()) * self.gpus_per_node

    def plan(self, overrides: Sequence[str], folder: Path) -> Start:
        """Return the hostfile and the command of DeepSpeed's launcher, or a script to run on each node."""
        names = self.names()
        nodes = folder / "hostfile"
        files = {nodes: hostfile(names, self.gpus_per_node)}
        rendezvous = ["--hostfile", str(nodes), "--master_addr", names[0], "--master_port", str(self.master_port)]
        secret = folder / "secret"
        roll = folder / f"roll.{secrets.token_hex(4)}"
        exported = {**safe_variables(), SECRET: str(secret), **self.environment}
        if not self.ssh:
            start = self._by_hand(rendezvous, names, overrides, folder, files, exported)
            return replace(start, secret=secret)
        exported |= {ROLL: str(roll)}
        check_plain([*overrides, str(Path.cwd()), sys.executable, *exported.values()])
        exports = folder / "deepspeed_env"  # always: without one, DeepSpeed reads .deepspeed_env here and at home
        files[exports] = "".join(f"{name}={value}\n" for name, value in exported.items())
        environment = {**safe_variables(), "DS_ENV_FILE": str(exports)}
        command = [deepspeed(), *rendezvous, "--force_multi", *training(overrides)]
        return Start(command, files, environment, secret=secret, remote=Remote(names, self.gpus_per_node, roll))

    def _by_hand(
        self,
        rendezvous: list[str],
        names: list[str],
        overrides: Sequence[str],
        folder: Path,
        files: dict[Path, str],
        exported: Mapping[str, str],
    ) -> Start:
        script = folder / "node.sh"
        launcher = shlex.join(["deepspeed", *rendezvous, "--no_ssh", "--node_rank"])
        files[script] = "\n".join(
            [
                "#!/usr/bin/env bash",
                "# Written by `pdpc launch cluster=hostfile cluster.ssh=false`. NOT YET RUN ON A GPU CLUSTER.",
                "# On each node: bash node.sh RANK   (RANK: the node's line in the hostfile, from 0)",
                "set -eu",
                f"cd {shlex.quote(str(Path.cwd()))}",
                f'export PATH={shlex.quote(str(programs()))}:"$PATH"',
                *(f"export {name}={shlex.quote(value)}" for name, value in exported.items()),
                "# shellcheck disable=SC2016  # the overrides must not be expanded by this shell",
                f'exec {launcher} "${{1:?rank of this node}}" {shlex.join(training(overrides))}',
                "",
            ]
        )
        commands = [f"{name}:  {shlex.join(['bash', str(script), str(rank)])}" for rank, name in enumerate(names)]
        return Start(files=files, by_hand=commands)

    @staticmethod
    def _expanded(hosts: Sequence[str]) -> list[str]:
        names = [name for text in hosts for name in expand(text)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"cluster.hosts lists {', '.join(twice)} more than once: list each node once")
        return names


def deepspeed() -> str:
    """Return DeepSpeed's launcher: its name if it is on PATH, else its path next to this Python."""
    path = programs() / "deepspeed"
    return str(path) if shutil.which("deepspeed") is None and path.exists() else "deepspeed"


def programs() -> Path:
    """Return the folder of this Python, which also holds its `deepspeed`."""
    return Path(sys.executable).absolute().parent


def training(overrides: Sequence[str]) -> list[str]:
    """Return the launcher's final arguments: the module `train` and its overrides."""
    return ["--no_local_rank", "--module", "train", *overrides]


def check_plain(words: Sequence[str]) -> None:
    """Raise ValueError for a word that the remote shell behind pdsh would change."""
    for word in words:
        if not PLAIN.fullmatch(word):
            raise ValueError(
                f"{word!r} would be changed by the remote shell that pdsh starts: put it into an experiment file, "
                "or start the nodes without ssh (cluster.ssh=false)"
            )


def check_least(key: str, value: int) -> None:
    """Raise ValueError for a count below 1."""
    if value < 1:
        raise ValueError(f"cluster.{key}={value} must be at least 1")


def check_environment(environment: Mapping[str, str]) -> None:
    """Raise ValueError for an invalid variable name or a value of more than one line."""
    for name, value in environment.items():
        if not VARIABLE.fullmatch(name) or not value.isprintable():
            raise ValueError(
                f"cluster.environment: {name!r}={value!r} is not a valid variable name with a one-line value"
            )
