"""Ranks on other machines that were started over ssh: signals to them, and which of them were lost."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from train.distributed import heartbeat

SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=5")
SIGNALLED_S = 15.0
"""How long the machines may take to pass on a signal."""
PROBES = 3
"""Unanswered keep-alives after which ssh gives a machine up."""


@dataclass(frozen=True)
class Remote:
    """The ranks of a run on several machines."""

    nodes: list[str]
    """Machines in the order of their ranks."""
    slots: int
    """Ranks on each of them."""
    roll: Path
    """Folder that all of them see, with the process id and the exit code of every rank."""

    @property
    def size(self) -> int:
        """Number of ranks."""
        return len(self.nodes) * self.slots

    def started(self) -> bool:
        """Have all ranks reported their process ids?"""
        return len(heartbeat.pids(self.roll)) == self.size

    def signal(self, number: int) -> None:
        """Send a signal to all ranks, on all machines at once; one that cannot be reached is left out."""
        by_node: dict[str, list[str]] = {}
        for rank, pid in heartbeat.pids(self.roll).items():
            by_node.setdefault(self._node(rank), []).append(str(pid))
        commands = [[*SSH, node, "kill", f"-{int(number)}", *pids] for node, pids in by_node.items()]
        quiet = subprocess.DEVNULL
        started = [subprocess.Popen(one, stdin=quiet, stdout=quiet, stderr=quiet) for one in commands]
        for one in started:
            with suppress(subprocess.TimeoutExpired):
                one.wait(SIGNALLED_S)
            one.kill()

    def named(self, ranks: Iterable[int]) -> str:
        """Return ranks with their machines: "rank 1 on gpu02"."""
        return ", ".join(f"rank {rank} on {self._node(rank)}" for rank in ranks)

    def _node(self, rank: int) -> str:
        return self.nodes[rank // self.slots]


def keep_alive(hang_timeout_s: float, given: str) -> str:
    """Return pdsh's options for ssh, before those that were `given`: never ask for a password, and give up a machine
    that has not answered for `hang_timeout_s`, as its ranks do."""
    interval_s = max(1, int(hang_timeout_s / (PROBES + 1)))
    options = {"ServerAliveInterval": interval_s, "ServerAliveCountMax": PROBES, "BatchMode": "yes"}
    return " ".join(filter(None, [given, *(f"-o{key}={value}" for key, value in options.items())]))
