"""Engine `local`: this process, or worker processes of this machine.

The parent hands a chunk to whoever is free. A worker that dies is replaced and its chunk given out again; a chunk that
kills its third worker ends the work with an error. Workers end with their parent, however it ends.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from curriculum.work.chunks import Chunk
from curriculum.work.job import Job, work_here
from launch.executors.task import Task
from train.faults import arm

log = logging.getLogger(__name__)

MOST_DEATHS = 3
"""A chunk that was lost with so many workers is not given out again."""


class WorkerError(RuntimeError):
    """A worker could not go on; the message is its own."""


def run(task: Task, job: Job) -> None:
    """Do what is missing."""
    processes = min(task.processes or task.usual_processes(), len(job.chunks))
    if processes <= 1:
        with task.computing():
            work_here(job, lambda: task.load(job, 0))
        return
    with job.store.held():
        if missing := job.begin():
            _Pool(task, job, missing, min(processes, len(missing))).run()


@dataclass(eq=False)
class _Worker:
    number: int
    process: Any
    pipe: Connection
    chunk: Chunk | None = None
    ready: bool = False


class _Pool:
    def __init__(self, task: Task, job: Job, missing: list[Chunk], size: int) -> None:
        self._task, self._job = task, job
        self._waiting = deque(missing)
        self._missing = missing
        self._deaths: dict[str, int] = {}
        self._context = multiprocessing.get_context("spawn")
        self._workers = [self._start(number) for number in range(size)]

    def run(self) -> None:
        """Hand out chunks until all are done."""
        left = len(self._missing)
        with self._job.meter(self._missing) as meter:
            try:
                while left:
                    for worker in self._answers():
                        said = self._hear(worker)
                        if said is None:
                            continue
                        kind, value = said
                        if kind == "error":
                            raise (ValueError if value[0] == "ValueError" else WorkerError)(value[1])
                        if kind == "ready":
                            self._job.on_worker_ready(value, meter)
                            worker.ready = True
                        if kind == "done":
                            worker.chunk = None
                            left -= 1
                            meter.count(value)
                        self._give(worker)
            finally:
                self._end()

    def _start(self, number: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=work, args=(self._task, number, theirs), daemon=True)
        process.start()
        theirs.close()
        return _Worker(number, process, ours)

    def _answers(self) -> list[_Worker]:
        heard = wait([worker.pipe for worker in self._workers])
        return [worker for worker in self._workers if worker.pipe in heard]

    def _hear(self, worker: _Worker) -> tuple[str, Any] | None:
        try:
            said: tuple[str, Any] = worker.pipe.recv()
            return said
        except (EOFError, OSError):
            self._bury(worker)
            return None

    def _give(self, worker: _Worker) -> None:
        if self._waiting and worker.chunk is None and worker.ready:
            worker.chunk = self._waiting.popleft()
            try:
                worker.pipe.send(worker.chunk)
            except OSError:
                self._bury(worker)

    def _bury(self, worker: _Worker) -> None:
        """Replace a dead worker; give its chunk out again, unless too many died of it."""
        worker.process.join()
        worker.pipe.close()
        name = worker.chunk.name if worker.chunk else "start"
        self._deaths[name] = self._deaths.get(name, 0) + 1
        code = worker.process.exitcode
        if self._deaths[name] >= MOST_DEATHS:
            raise WorkerError(
                f"{MOST_DEATHS} workers died at {'chunk ' + name if worker.chunk else 'their start'} (the last with "
                f"code {code}; -9 is most likely want of memory): lower {self._task.thrift}, and run again to go on"
            )
        log.warning("worker %d died with code %s: another takes its place", worker.number, code)
        if worker.chunk is not None:
            self._waiting.appendleft(worker.chunk)
        self._workers[self._workers.index(worker)] = self._start(worker.number)
        for other in self._workers:
            self._give(other)

    def _end(self) -> None:
        for worker in self._workers:
            worker.pipe.close()  # a worker that waits or writes ends with its pipe
        for worker in self._workers:
            worker.process.join(timeout=0.5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


def work(task: Task, number: int, pipe: Connection) -> None:
    """Be a worker: load what it needs, then do chunk after chunk until the pipe closes."""
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers it and ends its workers
    os.environ["OMP_NUM_THREADS"] = str(task.threads)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _end_with_parent()
    try:
        arm()
        with task.computing():
            worker = task.load(task.open(), number)
            pipe.send(("ready", worker.introduction()))
            while True:
                pipe.send(("done", worker.do(pipe.recv())))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:
        kind = "ValueError" if isinstance(error, ValueError) else type(error).__name__
        pipe.send(("error", (kind, f"{error}" if kind == "ValueError" else f"{kind}: {error}")))


def _end_with_parent() -> None:
    """Leave when the parent is gone: a chunk that is being written then is done again by the next run."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "workers are started by multiprocessing"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
