"""Executor `deepspeed`: ranks of the DeepSpeed launcher, on one machine or many with the output on a shared disk.

Rank 0 determines the missing chunks; each idle rank takes the next one from a shared counter in the process group's
store. If a rank dies, the launcher ends all ranks; the next run processes the chunks that are still missing.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from curriculum.artifact.manifest import MANIFEST
from curriculum.work.chunks import Chunk
from curriculum.work.job import Job
from launch.executors.task import Task

if TYPE_CHECKING:
    from train.distributed.world import World

BEGUN, NEXT, READY, IDLE, COUNTED, FINISHED = (
    f"pdpc/work/{name}" for name in ("begun", "next", "ready", "idle", "counted", "finished")
)
LOOK_EVERY_S = 0.2


def start(task: Task, overrides: Sequence[str]) -> int:
    """Start the ranks on this machine with `overrides`, and wait; return their exit code."""
    from launch.cluster.supervisor import start_ranks

    processes = task.processes or task.usual_processes()
    code = start_ranks("launch.rank", processes, [task.verb, *overrides], task.threads)
    if code == 0 and not (task.output / MANIFEST).is_file():
        # DeepSpeed's launcher also returns 0 if one of its processes was killed by a signal.
        print(f"{task.output} is incomplete: run the same command again to resume", file=sys.stderr)
        return 1
    return code


def work(task: Task, world: World) -> None:
    """Run one rank: process chunks until none is left; rank 0 then assembles the artifact."""
    import torch.distributed as dist

    from train.distributed.shared_folder import check_shared

    store = dist.distributed_c10d._get_default_store()
    job = task.open()
    with ExitStack() as held, task.computing():
        missing = _missing(job, world, store, held)
        if missing is None:
            return
        if missing:
            check_shared("output", job.store.folder, world)
            _take(task, job, world, store, missing)
    _first_does(world, store, FINISHED, job.finish)


def _missing(job: Job, world: World, store: Any, held: ExitStack) -> list[Chunk] | None:
    """Return the missing chunks, the same on all ranks; None if the artifact is complete. Rank 0 locks the folder."""
    import torch

    flags = torch.zeros(len(job.chunks) + 1, dtype=torch.int64)

    def look() -> None:
        if job.reused() is not None:
            flags[-1] = 1
            return
        held.enter_context(job.store.held())
        wanted = set(job.begin())
        flags[:-1] = torch.tensor([int(chunk in wanted) for chunk in job.chunks])

    _first_does(world, store, BEGUN, look)
    shared = world.all_sum(flags.to(world.device)).tolist()
    return None if shared[-1] else [chunk for chunk, flag in zip(job.chunks, shared, strict=False) if flag]


def _take(task: Task, job: Job, world: World, store: Any, missing: list[Chunk]) -> None:
    """Take and process the next free chunk until none is left, then wait until every rank is idle."""
    worker = task.load(job, world.local_rank)
    store.set(f"{READY}/{world.rank}", json.dumps(worker.introduction()))
    world.barrier()
    with ExitStack() as stack:
        meter = stack.enter_context(job.meter(missing)) if world.first else None
        if meter is not None:  # rank 0 reports for all
            for rank in range(world.size):
                job.on_worker_ready(json.loads(store.get(f"{READY}/{rank}")), meter)
        shown: list[int] = []
        while (place := store.add(NEXT, 1) - 1) < len(missing):
            counted = worker.do(missing[place])
            now = [store.add(f"{COUNTED}/{index}", number) for index, number in enumerate(counted)]
            if meter is not None:
                meter.count([new - old for new, old in zip(now, shown or [0] * len(now), strict=True)])
                shown = now
    store.add(IDLE, 1)
    _wait(lambda: store.add(IDLE, 0) == world.size)


def _first_does(world: World, store: Any, name: str, action: Callable[[], object]) -> None:
    """Run an action on rank 0 that may outlast a collective's timeout; if it raises, all ranks raise."""
    problem: Exception | None = None
    if world.first:
        try:
            action()
        except Exception as error:
            problem = error
        store.add(name, 1)
    _wait(lambda: store.add(name, 0) > 0)
    world.together(problem)


def _wait(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(LOOK_EVERY_S)
