"""Executor `local`: this process, or worker processes on this machine.

The parent gives the next chunk to an idle worker. A worker that dies is replaced and its chunk is retried; a chunk that
kills its third worker ends the job with an error. Workers exit when their parent does, for any reason.
"""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from curriculum.work.chunks import Chunk
from curriculum.work.cpus import OMP
from curriculum.work.job import Job, work_here
from curriculum.work.streams import open_streams
from launch.executors.task import Task
from train.config.packages import check_packages
from train.distributed.exit_codes import FAILED, Refused, exit_code_of
from train.faults import arm

log = logging.getLogger(__name__)

MOST_DEATHS = 3
"""Number of worker deaths at one chunk after which the job fails."""


class WorkerError(RuntimeError):
    """A worker failed; the message is the worker's."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def run(task: Task, job: Job) -> None:
    """Process the missing chunks."""
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
        """Distribute chunks until all are done."""
        left = len(self._missing)
        with self._job.meter(self._missing) as meter:
            try:
                while left:
                    for worker in self._ready_workers():
                        message = self._receive(worker)
                        if message is None:
                            continue
                        kind, value = message
                        if kind == "error":
                            refused, text, code = value
                            raise (Refused if refused else WorkerError)(text, code)
                        if kind == "ready":
                            self._job.on_worker_ready(value, meter)
                            worker.ready = True
                        if kind == "done":
                            worker.chunk = None
                            left -= 1
                            meter.count(value)
                        self._assign(worker)
            finally:
                self._end()

    def _start(self, number: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=work, args=(self._task, number, theirs), daemon=True)
        with _interrupts_held():
            process.start()
        theirs.close()
        return _Worker(number, process, ours)

    def _ready_workers(self) -> list[_Worker]:
        ready = wait([worker.pipe for worker in self._workers])
        return [worker for worker in self._workers if worker.pipe in ready]

    def _receive(self, worker: _Worker) -> tuple[str, Any] | None:
        try:
            message: tuple[str, Any] = worker.pipe.recv()
            return message
        except (EOFError, OSError):
            self._replace_dead_worker(worker)
            return None

    def _assign(self, worker: _Worker) -> None:
        if self._waiting and worker.chunk is None and worker.ready:
            worker.chunk = self._waiting.popleft()
            try:
                worker.pipe.send(worker.chunk)
            except OSError:
                self._replace_dead_worker(worker)

    def _replace_dead_worker(self, worker: _Worker) -> None:
        """Replace a dead worker and retry its chunk, unless it killed MOST_DEATHS workers."""
        worker.process.join()
        worker.pipe.close()
        name = worker.chunk.name if worker.chunk else "start"
        self._deaths[name] = self._deaths.get(name, 0) + 1
        code = worker.process.exitcode
        if self._deaths[name] >= MOST_DEATHS:
            raise WorkerError(
                f"{MOST_DEATHS} workers died {'in chunk ' + name if worker.chunk else 'while starting'} (the last with "
                f"exit code {code}; -9 most likely means out of memory): lower {self._task.memory_hint}, and run the "
                "same command again to resume"
            )
        log.warning("worker %d died with exit code %s: starting a replacement", worker.number, code)
        if worker.chunk is not None:
            self._waiting.appendleft(worker.chunk)
        self._workers[self._workers.index(worker)] = self._start(worker.number)
        for other in self._workers:
            self._assign(other)

    def _end(self) -> None:
        for worker in self._workers:
            worker.pipe.close()  # a worker that reads or writes its pipe exits
        for worker in self._workers:
            worker.process.join(timeout=0.5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Hold SIGINT back inside the block. A process started there never gets it: the terminal sends it to all, and only
    this process handles it."""
    resource_tracker.ensure_running()  # it would let the signal through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def work(task: Task, number: int, pipe: Connection) -> None:
    """Run a worker: load the task, then process chunks until the pipe closes."""
    open_streams()
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # also for what the worker starts
    os.environ.setdefault(OMP, str(task.threads))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _end_with_parent()
    try:
        check_packages()
        arm()
        with task.computing():
            worker = task.load(task.open(), number)
            pipe.send(("ready", worker.introduction()))
            while True:
                pipe.send(("done", worker.do(pipe.recv())))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
    except Exception as error:
        plain = isinstance(error, ValueError | OSError)  # whose message says enough
        text = str(error) if plain else f"{type(error).__name__}: {error}"
        with suppress(OSError):  # the parent is ending: another worker failed first
            pipe.send(("error", (isinstance(error, ValueError), text, exit_code_of(error))))


def _end_with_parent() -> None:
    """Exit when the parent is gone; the next run redoes a chunk that was being written."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "workers are started by multiprocessing"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()
