"""Engine `ray`: actors of a Ray cluster that may grow, shrink and lose nodes. What is read
and what is written lie where all nodes see them.

The driver hands a chunk to whichever actor is free. An actor that is lost gives its chunk back and is made again; Ray
starts it when there is room. With processes=null the driver asks again and again how large the cluster is. Each actor
writes its chunk itself, whole or not at all, so the driver may be lost too: the next run does what is missing.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from contextlib import ExitStack
from typing import Any

from curriculum.work.chunks import Chunk
from curriculum.work.job import Job
from launch.executors.task import Task

log = logging.getLogger(__name__)

MOST_LOSSES = 5
"""A chunk that was lost with so many actors is not given out again."""
LOOK_EVERY_S = 5.0
"""How often the cluster's size is asked for."""


class Actor:
    """A worker of the cluster. Its code travels as the installed package, which every node must have."""

    def __init__(self, task: Task) -> None:
        from train.faults import arm

        arm()
        self._computing = ExitStack()  # for as long as it lives
        self._computing.enter_context(task.computing())
        self._worker = task.load(task.open(), 0)

    def ready(self) -> dict[str, Any]:
        """Return what the worker tells of itself."""
        return self._worker.introduction()

    def do(self, chunk: Chunk) -> tuple[int, ...]:
        """Do and write a chunk; return what is counted."""
        return self._worker.do(chunk)


def run(task: Task, job: Job) -> None:
    """Do what is missing on the cluster that RAY_ADDRESS names, or on one of this machine."""
    try:
        import ray
    except ImportError as error:
        raise ValueError("engine=ray needs Ray: install pdpc[ray], or use engine=local or deepspeed") from error

    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level="warning")
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
        """What each pending answer is of: its actor and chunk; None: that the actor is ready."""
        gpus = task.on_gpu and int(ray.cluster_resources().get("GPU", 0)) > 0
        needs = {"num_gpus": 1, "num_cpus": 0} if gpus else {"num_cpus": task.threads}
        self._actor = ray.remote(max_restarts=0, **needs)(Actor)
        self._unit, self._each = ("GPU", 1) if gpus else ("CPU", task.threads)
        self._looked = 0.0

    def run(self) -> None:
        """Hand out chunks until all are done."""
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
        """Make actors until there are as many as asked for, or as the cluster has room for."""
        if time.monotonic() - self._looked < LOOK_EVERY_S and self._asked:
            return
        self._looked = time.monotonic()
        room = int(self._ray.cluster_resources().get(self._unit, 0)) // self._each
        wanted = min(self._task.processes or max(1, room), max(1, len(self._waiting) + len(self._asked)))
        for _ in range(wanted - len(self._asked)):
            actor = self._actor.remote(self._task)
            self._asked[actor.ready.remote()] = (actor, None)

    def _lost(self, chunk: Chunk | None, error: Exception) -> None:
        name = chunk.name if chunk else "its start"
        self._losses[name] = self._losses.get(name, 0) + 1
        if self._losses[name] >= MOST_LOSSES:
            raise RuntimeError(f"{MOST_LOSSES} actors were lost at {name}; run again to go on: {error}")
        log.warning("an actor was lost at %s: another takes its place", name)
        if chunk is not None:
            self._waiting.appendleft(chunk)
        self._looked = 0.0
