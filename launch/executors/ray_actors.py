"""Executor `ray`: actors on a Ray cluster that may grow, shrink and lose nodes. Inputs and outputs must be on storage
that all nodes share.

The driver gives the next chunk to an idle actor. A lost actor is replaced as soon as Ray has resources for a new one,
and its chunk is retried. With processes=null, the driver polls the size of the cluster. Each actor writes its chunk
atomically, so the driver may be lost too: the next run processes the chunks that are still missing.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from contextlib import ExitStack
from typing import Any

from curriculum.work.chunks import Chunk
from curriculum.work.job import Job
from launch.executors.task import Task

log = logging.getLogger(__name__)

MOST_LOSSES = 5
"""Number of actors lost at one chunk after which the job fails."""
LOOK_EVERY_S = 5.0
"""Interval at which the size of the cluster is polled."""


class Actor:
    """A worker on the cluster. Every node must have the package installed: Ray does not ship its code."""

    def __init__(self, task: Task) -> None:
        from train.config.packages import check_packages
        from train.faults import arm

        check_packages()
        arm()
        self._computing = ExitStack()  # never closed: lasts as long as the actor
        self._computing.enter_context(task.computing())
        self._worker = task.load(task.open(), 0)

    def ready(self) -> dict[str, Any]:
        """Return the worker's introduction."""
        return self._worker.introduction()

    def do(self, chunk: Chunk) -> tuple[int, ...]:
        """Process and write a chunk; return its counts for the meter."""
        return self._worker.do(chunk)


def run(task: Task, job: Job) -> None:
    """Process the missing chunks on the cluster at RAY_ADDRESS, or on a local one."""
    try:
        import ray
    except ImportError as error:
        raise ValueError("engine=ray needs Ray: install pdpc[ray], or use engine=local or deepspeed") from error

    started = not ray.is_initialized()
    if started:
        # Without an address, Ray would join the cluster that a file in /tmp names, which anyone may write.
        address = os.environ.get("RAY_ADDRESS") or "local"
        ray.init(address, log_to_driver=False, include_dashboard=False, logging_level="warning")
    try:
        with job.store.held():
            if missing := job.begin():
                _Driver(ray, task, job, missing).run()
    finally:
        if started:
            ray.shutdown()


class _Driver:
    def __init__(self, ray: Any, task: Task, job: Job, missing: list[Chunk]) -> None:
        self._ray, self._task, self._job = ray, task, job
        self._missing = missing
        self._waiting = deque(missing)
        self._losses: dict[str, int] = {}
        self._asked: dict[Any, tuple[Any, Chunk | None]] = {}
        """Actor and chunk by pending result; chunk None: the actor's call of ready()."""
        gpus = task.on_gpu and int(ray.cluster_resources().get("GPU", 0)) > 0
        needs = {"num_gpus": 1, "num_cpus": 0} if gpus else {"num_cpus": task.threads}
        self._actor = ray.remote(max_restarts=0, **needs)(Actor)
        self._unit, self._each = ("GPU", 1) if gpus else ("CPU", task.threads)
        self._looked = 0.0

    def run(self) -> None:
        """Distribute chunks until all are done."""
        left = len(self._missing)
        with self._job.meter(self._missing) as meter:
            while left:
                self._grow()
                answers, _ = self._ray.wait(list(self._asked), timeout=LOOK_EVERY_S)
                for answer in answers:
                    actor, chunk = self._asked.pop(answer)
                    try:
                        value = self._ray.get(answer)
                    except self._ray.exceptions.RayTaskError as error:
                        cause = error.as_instanceof_cause()
                        raise ValueError(str(error.cause)) if isinstance(cause, ValueError) else cause from None
                    except self._ray.exceptions.RayActorError as error:
                        self._lost(chunk, error)
                        continue
                    if chunk is None:
                        self._job.on_worker_ready(value, meter)
                    else:
                        left -= 1
                        meter.count(value)
                    if self._waiting:
                        given = self._waiting.popleft()
                        self._asked[actor.do.remote(given)] = (actor, given)

    def _grow(self) -> None:
        """Create actors up to `processes`, or up to the capacity of the cluster."""
        if time.monotonic() - self._looked < LOOK_EVERY_S and self._asked:
            return
        self._looked = time.monotonic()
        capacity = int(self._ray.cluster_resources().get(self._unit, 0)) // self._each
        wanted = min(self._task.processes or max(1, capacity), max(1, len(self._waiting) + len(self._asked)))
        for _ in range(wanted - len(self._asked)):
            actor = self._actor.remote(self._task)
            self._asked[actor.ready.remote()] = (actor, None)

    def _lost(self, chunk: Chunk | None, error: Exception) -> None:
        name = f"in chunk {chunk.name}" if chunk else "while starting"
        self._losses[name] = self._losses.get(name, 0) + 1
        if self._losses[name] >= MOST_LOSSES:
            raise RuntimeError(
                f"{MOST_LOSSES} actors were lost {name}: run the same command again to resume (last error: {error})"
            )
        log.warning("an actor was lost %s: starting a replacement", name)
        if chunk is not None:
            self._waiting.appendleft(chunk)
        self._looked = 0.0
