"""Task: what an executor needs to run a verb."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from curriculum.work.job import Job, Worker

ENGINES = ("local", "deepspeed", "ray")


class Task(Protocol):
    """A verb and its settings, from which any process of an executor can open the job and process its chunks.

    A task is pickled to other processes, so it holds only settings and fingerprints.
    """

    verb: str
    output: Path
    """Folder of the artifact."""
    processes: int | None
    """Number of workers requested; None: as many as the machine or cluster supports."""
    threads: int
    """CPU threads per worker."""
    on_gpu: bool
    """Whether a worker uses a GPU if there is one."""
    memory_hint: str
    """Settings to lower when out of memory."""

    def open(self) -> Job:
        """Open the job; called in every process. Raises ValueError for invalid settings or inputs."""

    def load(self, job: Any, number: int) -> Worker:
        """Create worker `number` for a job that `open` returned and that has begun."""

    def computing(self) -> AbstractContextManager[None]:
        """Limit computation to `threads` threads inside the block."""

    def usual_processes(self) -> int:
        """Return the default number of workers on this machine."""


def check_engine(engine: str, processes: int | None) -> None:
    """Raise ValueError for an unknown engine or fewer than one process."""
    if engine not in ENGINES:
        raise ValueError(f"engine={engine!r} is unknown: use one of {list(ENGINES)}")
    if processes is not None and processes < 1:
        raise ValueError(f"processes={processes} must be at least 1, or null")
