"""The watchdog: a thread that finds out when this rank's main thread no longer gets on.

Nothing is asked of other ranks: when one of them is stopped or gone, all others wait for it in a collective and find
themselves late. Who is late dumps its stacks into RUN/stacks, lets the other ranks of this machine dump theirs, ends
those that do not end by themselves, and leaves with code 79.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from curriculum.artifact.files import process_alive
from train.distributed.collectives import Exchange
from train.distributed.exit_codes import HUNG
from train.distributed.heartbeat import leave
from train.distributed.signals import HANG, post
from train.distributed.world import World

log = logging.getLogger(__name__)

STACKS = "stacks"
"""Folder of a run with a file a rank: what every thread was doing when a hang was found."""
PATIENCE_S = 1.5
"""How long another rank has to dump its stacks and leave, after which it is killed."""


class Watchdog:
    """Watches this process from `start` to `close`."""

    def __init__(self, folder: Path, world: World, timeout_s: float, slow_timeout_s: float) -> None:
        self._folder = folder / STACKS
        self._world = world
        self._timeout_s = timeout_s
        self._slow_timeout_s = slow_timeout_s
        self._tick_s = min(0.5, timeout_s / 10)
        self._where = "start"
        self._limit_s = slow_timeout_s
        self._late_s = 0.0
        self._peers: dict[int, int] = {}
        self._file: IO[str] | None = None
        self._closing = threading.Event()
        self._found = threading.Event()

    def start(self) -> None:
        """Meet the other ranks, for their process ids, and begin to watch. Every rank calls this."""
        here = machine()
        places = Exchange(self._world).gather("watchdog", [here, os.getpid()])
        self._peers = {
            rank: pid for rank, (place, pid) in enumerate(places) if place == here and rank != self._world.rank
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        self._file = open(self._folder / f"rank_{self._world.rank:05d}.txt", "a", encoding="utf-8")  # noqa: SIM115
        faulthandler.enable(self._file)  # the last resort of `end_processes`, and what a crash leaves
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def close(self) -> None:
        """Stop watching. When a hang was found, its ending goes first: the process leaves in here."""
        self._closing.set()
        if self._found.is_set():
            time.sleep(10 * PATIENCE_S)
        if self._file is not None:
            faulthandler.disable()
            empty = self._file.tell() == 0
            self._file.close()
            self._file = None
            if empty:
                os.unlink(self._folder / f"rank_{self._world.rank:05d}.txt")
                with contextlib.suppress(OSError):  # another rank's file is there yet
                    self._folder.rmdir()

    def beat(self, where: str) -> None:
        """Say that this rank gets on: it has reached `where`, and will be somewhere else within `timeout_s`."""
        self._where, self._limit_s, self._late_s = where, self._timeout_s, 0.0

    @contextmanager
    def slow(self, where: str) -> Iterator[None]:
        """Do something that takes long by nature: `slow_timeout_s` holds inside, and time begins anew after it.

        One inside another has its own time, and so has what comes after it.
        """
        before, limit_s = self._where, self._limit_s
        self._where, self._limit_s, self._late_s = where, self._slow_timeout_s, 0.0
        try:
            yield
        finally:
            self._where, self._limit_s, self._late_s = before, limit_s, 0.0

    def _watch(self) -> None:
        last = time.monotonic()
        while not self._closing.wait(self._tick_s):
            now = time.monotonic()
            # Time as this thread lived it: a process that was stopped as a whole and goes on is not late.
            self._late_s += min(now - last, 4 * self._tick_s)
            last = now
            if self._late_s > self._limit_s:
                self._end(self._where, self._limit_s)

    def dump(self) -> None:
        """Write down, once, what all threads are doing; they stand still, for this holds the interpreter's lock."""
        if self._file is None or self._found.is_set():
            return
        self._found.set()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._file.write(f"{now} rank {self._world.rank}: {self._where}\n")
        self._file.flush()
        faulthandler.dump_traceback(self._file, all_threads=True)

    def _end(self, where: str, limit_s: float) -> None:
        """Dump the stacks of this machine's ranks and leave none of them behind."""
        assert self._file is not None
        self.dump()
        log.error(
            "rank %s hangs: at %s for more than %g s; what its threads were doing is in %s",
            *(self._world.rank, where, limit_s, self._file.name),
        )
        post(HUNG, PATIENCE_S / 3)
        end_processes(list(self._peers.values()))
        leave(HUNG)


def end_processes(pids: list[int]) -> None:
    """Let hanging ranks dump their stacks and leave, also a stopped one; kill those that do not. About PATIENCE_S.

    A rank whose threads cannot run (something in C keeps the interpreter's lock) is aborted, which dumps its stacks.
    """
    for number, share in ((HANG, 0.7), (signal.SIGABRT, 0.3), (signal.SIGKILL, 0.0)):
        for pid in pids:
            _send(pid, number)
            _send(pid, signal.SIGCONT)
        deadline = time.monotonic() + share * PATIENCE_S
        while any(running(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.02)
        pids = [pid for pid in pids if running(pid)]


def machine() -> str:
    """Return a name for the place whose process ids mean the same: this host and its container."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def running(pid: int) -> bool:
    """Tell whether a process is there and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return not Path("/proc").is_dir() and process_alive(pid)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
