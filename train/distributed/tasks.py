"""Ranks that srun or mpirun started without a launcher of ours: their place, from the variables of either.

    srun --nodes=2 --ntasks-per-node=8 --gpus-per-node=8 python -m train experiment=...
    mpirun -n 8 python -m train experiment=...

Without these variables, every task would take itself for the only rank.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

LAUNCHED = ("RANK", "WORLD_SIZE")
"""Variables of ranks that a launcher started."""
OMPI = "OMPI_COMM_WORLD_"
MPI = (
    ("mpirun", f"{OMPI}RANK", f"{OMPI}SIZE", f"{OMPI}LOCAL_RANK", f"{OMPI}LOCAL_SIZE"),
    ("mpiexec", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
)
"""Open MPI, and MPICH or Intel MPI: program, and variables with rank, size, local rank, local size."""
PORTS = range(12000, 28000)
"""Ports below the ephemeral ones, one of which follows from the job's number."""


@dataclass(frozen=True)
class Task:
    """One of several tasks of a command."""

    program: str
    """What started it."""
    rank: int
    size: int
    local_rank: int
    local_size: int
    address: str | None
    """Where the ranks can meet: the host of rank 0; None: unknown."""
    port: int

    def variables(self) -> dict[str, str]:
        """Return the variables of a rank. Raises ValueError if it is not known where the ranks can meet."""
        address = os.environ.get("MASTER_ADDR") or self.address
        if address is None:
            raise ValueError(
                f"{self.program} started {self.size} ranks on several nodes and does not say where they can meet: "
                f"type {self.program} -x MASTER_ADDR=$(hostname) -x MASTER_PORT={self.port} ... on the node of rank 0 "
                "(-genv NAME VALUE with MPICH), or use pdpc launch"
            )
        return {
            "RANK": str(self.rank),
            "WORLD_SIZE": str(self.size),
            "LOCAL_RANK": str(self.local_rank),
            "LOCAL_SIZE": str(self.local_size),
            "MASTER_ADDR": address,
            "MASTER_PORT": os.environ.get("MASTER_PORT") or str(self.port),
        }


def task_of(environment: Mapping[str, str]) -> Task | None:
    """Return this process's place among the tasks of srun or mpirun; None if it is alone, or a launcher's rank."""
    if any(name in environment for name in LAUNCHED):
        return None
    for program, *names in MPI:  # before Slurm: mpirun starts its own daemons with srun
        if int(environment.get(names[1], "1")) > 1 and all(name in environment for name in names):
            rank, size, local_rank, local_size = (int(environment[name]) for name in names)
            number = int(
                environment.get("SLURM_JOB_ID") or re.sub(r"\D", "", environment.get("PMIX_NAMESPACE", "")) or 0
            )
            here = "127.0.0.1" if size == local_size else None
            return Task(program, rank, size, local_rank, local_size, here, _port(number))
    if int(environment.get("SLURM_STEP_NUM_TASKS", "1")) == 1 or "SLURM_PROCID" not in environment:
        return None
    size, node = int(environment["SLURM_STEP_NUM_TASKS"]), int(environment["SLURM_NODEID"])
    nodes = environment.get("SLURM_STEP_NODELIST") or environment["SLURM_JOB_NODELIST"]
    local_size = _counts(environment["SLURM_STEP_TASKS_PER_NODE"])[node]
    address = "127.0.0.1" if local_size == size else _first(nodes)
    restart, step = int(environment.get("SLURM_RESTART_COUNT", "0")), int(environment.get("SLURM_STEP_ID", "0"))
    port = _port(int(environment["SLURM_JOB_ID"]) + 101 * restart + 7 * step)
    rank, local_rank = int(environment["SLURM_PROCID"]), int(environment["SLURM_LOCALID"])
    return Task("srun", rank, size, local_rank, local_size, address, port)


def become_rank() -> None:
    """Set the variables of a rank if srun or mpirun started this process as one of several.

    Raises ValueError, with what to type, if that does not say where the ranks can meet.
    """
    task = task_of(os.environ)
    if task is not None:
        os.environ.update(task.variables())


def check_alone(command: str) -> None:
    """Raise ValueError if srun or mpirun started a command that starts ranks by itself more than once."""
    task = task_of(os.environ)
    if task is not None:
        raise ValueError(
            f"{task.program} started {task.size} tasks of {command}, and each would start ranks of its own: type "
            f"{task.program} ... python -m train, one task per rank, or pdpc launch cluster=slurm"
        )


def _port(number: int) -> int:
    return PORTS[number % len(PORTS)]


def _first(nodes: str) -> str:
    """Return the first of Slurm's list of nodes: "gpu[01-04,07],login" gives gpu01."""
    return re.sub(r"\[(\d+)[^\]]*\]", r"\1", nodes).partition(",")[0]


def _counts(text: str) -> list[int]:
    """Return the tasks of every node from Slurm's notation: "4(x2),1" gives 4, 4, 1."""
    counts: list[int] = []
    for count, times in re.findall(r"(\d+)(?:\(x(\d+)\))?", text):
        counts += [int(count)] * int(times or 1)
    return counts
