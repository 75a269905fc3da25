"""Selection of the executor."""

from __future__ import annotations

from collections.abc import Sequence

from curriculum.work.job import Job
from launch.executors.task import Task


def carry_out(task: Task, job: Job, engine: str, overrides: Sequence[str]) -> int:
    """Process a job's missing chunks and assemble its artifact; return 0, or the ranks' exit code."""
    if engine == "deepspeed":
        from launch.executors.ranks import start

        return start(task, overrides)
    if engine == "ray":
        from launch.executors import ray_actors

        ray_actors.run(task, job)
    else:
        from launch.executors import local

        local.run(task, job)
    job.finish()
    return 0
