"""Engine `ray`: actors of a Ray cluster that may grow, shrink and lose nodes. TOKENS, models and output lie where all
nodes see them.

The driver hands a chunk to whichever actor is free. An actor that is lost gives its chunk back and is made again; Ray
starts it when there is room. With processes=null the driver asks again and again how large the cluster is. Each actor
writes its chunk itself, whole or not at all, so the driver may be lost too: the next run does what is missing.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from curriculum.chunks import Chunk
from curriculum.scoring import NOTES, ScoringJob, progress_of

if TYPE_CHECKING:
    from launch.score import ScoreSettings

log = logging.getLogger(__name__)

MOST_LOSSES = 5
"""A chunk that was lost with so many actors is not given out again."""
LOOK_EVERY_S = 5.0
"""How often the cluster's size is asked for."""


class Actor:
    """A worker of the cluster. Its code travels as the installed package, which every node must have."""

    def __init__(self, settings: ScoreSettings, identities: dict[str, str]) -> None:
        import torch

        from launch.scoring.work import load_scorer, open_job, roof_of
        from train.faults import arm, fault

        arm()
        torch.set_num_threads(settings.threads)
        self._job = open_job(settings, fault, identities)
        self._scorer = load_scorer(settings, self._job)
        self._roof = roof_of(self._scorer)

    def ready(self) -> tuple[dict[str, Any], float]:
        """Return what is to be noted of the models, and the forward roof in tokens/s."""
        return self._scorer.notes(), self._roof

    def score(self, chunk: Chunk) -> int:
        """Score and write a chunk; return this process's id."""
        import os

        self._job.store.write(chunk, self._scorer.score(chunk))
        return os.getpid()


def run(settings: ScoreSettings, job: ScoringJob) -> None:
    """Score what is missing on the cluster that RAY_ADDRESS names, or on one of this machine."""
    try:
        import ray
    except ImportError as error:
        raise ValueError("engine=ray needs Ray: install pdpc[ray], or use engine=local or deepspeed") from error

    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, include_dashboard=False, logging_level="warning")
    try:
        with job.store.held():
            job.store.begin()
            _Driver(ray, settings, job, job.store.missing(job.chunks)).run()
    finally:
        if started:
            ray.shutdown()


class _Driver:
    def __init__(self, ray: Any, settings: ScoreSettings, job: ScoringJob, missing: list[Chunk]) -> None:
        self._ray, self._settings, self._job = ray, settings, job
        self._missing = missing
        self._waiting = deque(missing)
        self._losses: dict[str, int] = {}
        self._asked: dict[Any, tuple[Any, Chunk | None]] = {}
        """What each pending answer is of: its actor and chunk; None: that the actor is ready."""
        gpus = int(ray.cluster_resources().get("GPU", 0))
        needs = {"num_gpus": 1, "num_cpus": 0} if gpus else {"num_cpus": settings.threads}
        self._actor = ray.remote(max_restarts=0, **needs)(Actor)
        self._unit, self._each = ("GPU", 1) if gpus else ("CPU", settings.threads)
        self._looked = 0.0
        self._noted = False

    def run(self) -> None:
        """Hand out chunks until all are done."""
        left = len(self._missing)
        with progress_of(self._job, self._missing, None) as progress:
            while left or not self._noted:
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
                        self._job.store.note(NOTES, value[0])
                        progress.roof = (progress.roof or 0.0) + value[1]
                        self._noted = True
                    else:
                        left -= 1
                        progress.add(chunk.stop - chunk.start, self._job.real_tokens(chunk))
                    if self._waiting:
                        given = self._waiting.popleft()
                        self._asked[actor.score.remote(given)] = (actor, given)

    def _grow(self) -> None:
        """Make actors until there are as many as asked for, or as the cluster has room for."""
        if time.monotonic() - self._looked < LOOK_EVERY_S and self._asked:
            return
        self._looked = time.monotonic()
        room = int(self._ray.cluster_resources().get(self._unit, 0)) // self._each
        wanted = min(self._settings.processes or max(1, room), max(1, len(self._waiting) + len(self._asked)))
        for _ in range(wanted - len(self._asked)):
            actor = self._actor.remote(self._settings, self._job.identities)
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
