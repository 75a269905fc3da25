"""What an engine is told of a verb's work."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from curriculum.work.job import Job, Worker

ENGINES = ("local", "deepspeed", "ray")


class Task(Protocol):
    """A verb and its settings: with it, any process of an engine opens the job and does chunks of it.

    It travels to other processes, so it holds settings and fingerprints alone.
    """

    verb: str
    output: Path
    """Folder of the artifact."""
    processes: int | None
    """Workers that were asked for; None: as many as the machine or cluster is good for."""
    threads: int
    """CPU threads of a worker."""
    on_gpu: bool
    """Does a worker take a GPU where there is one?"""
    thrift: str
    """The settings to lower when memory is short."""

    def open(self) -> Job:
        """Open the job, as every process does. Raises ValueError for what cannot be."""

    def load(self, job: Any, number: int) -> Worker:
        """Make worker `number` of a job of this task's that has begun."""

    def computing(self) -> AbstractContextManager[None]:
        """Compute with `threads` threads inside the block."""

    def usual_processes(self) -> int:
        """Return the workers that this machine is good for."""


def check_engine(engine: str, processes: int | None) -> None:
    """Raise ValueError for an engine that there is not, or for no process."""
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r} is unknown: use one of {list(ENGINES)}")
    if processes is not None and processes < 1:
        raise ValueError(f"processes={processes} must be at least 1, or null")
