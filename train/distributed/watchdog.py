"""The watchdog: a thread that notices when this rank's main thread makes no progress.

It needs nothing from other ranks: when one of them is stopped or gone, all others wait for it in a collective and time
out. A rank that times out dumps its stacks into RUN/stacks, has the other ranks of this machine dump theirs, kills
those that do not exit by themselves, and exits with code 79.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from curriculum.artifact.drafts import machine, process_alive
from curriculum.artifact.files import no_links
from train.distributed.collectives import Collectives
from train.distributed.exit_codes import HUNG
from train.distributed.heartbeat import leave
from train.distributed.signals import HANG, post
from train.distributed.world import World
from train.records.layout import STACKS

log = logging.getLogger(__name__)

PATIENCE_S = 1.5
"""How long another rank has to dump its stacks and exit before it is killed."""


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
        """Gather the other ranks' process ids and start watching. Every rank calls this."""
        here = machine()
        places = Collectives(self._world).gather("watchdog", [here, os.getpid()])
        self._peers = {
            rank: pid for rank, (place, pid) in enumerate(places) if place == here and rank != self._world.rank
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"rank_{self._world.rank:05d}.txt"
        self._file = open(path, "a", encoding="utf-8", opener=no_links)  # noqa: SIM115 (held until close())
        faulthandler.enable(self._file)  # for SIGABRT, the last resort of `end_processes`, and for crashes
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def close(self) -> None:
        """Stop watching. If a hang was found, wait here while that ends the process."""
        self._closing.set()
        if self._found.is_set():
            time.sleep(10 * PATIENCE_S)
        if self._file is not None:
            faulthandler.disable()
            empty = self._file.tell() == 0
            self._file.close()
            self._file = None
            if empty:
                with contextlib.suppress(OSError):  # the RUN was moved; or another rank's file is still there
                    os.unlink(self._folder / f"rank_{self._world.rank:05d}.txt")
                    self._folder.rmdir()

    def beat(self, where: str) -> None:
        """Report progress: this rank has reached `where`, and must report again within `timeout_s`."""
        self._where, self._limit_s, self._late_s = where, self._timeout_s, 0.0

    @contextmanager
    def slow(self, where: str) -> Iterator[None]:
        """Allow `slow_timeout_s` for a block that takes long by nature; the clock restarts after it.

        A nested block has its own limit, and the clock restarts after that too.
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
            # Only time in which this thread ran: a process that was stopped as a whole and continued is not late.
            self._late_s += min(now - last, 4 * self._tick_s)
            last = now
            if self._late_s > self._limit_s:
                self._end(self._where, self._limit_s)

    def dump(self) -> None:
        """Dump, once, the stacks of all threads; they stand still, because this holds the GIL."""
        if self._file is None or self._found.is_set():
            return
        self._found.set()
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._file.write(f"{now} rank {self._world.rank}: {self._where}\n")
        self._file.flush()
        faulthandler.dump_traceback(self._file, all_threads=True)

    def _end(self, where: str, limit_s: float) -> None:
        """Dump the stacks of this machine's ranks and end all of them."""
        assert self._file is not None
        self.dump()
        log.error(
            "rank %s hangs: at %s for more than %g s; the stacks of its threads are in %s",
            *(self._world.rank, where, limit_s, self._file.name),
        )
        post(HUNG, PATIENCE_S / 3)
        end_processes(list(self._peers.values()))
        leave(HUNG)


def end_processes(pids: list[int]) -> None:
    """Make hanging ranks, even stopped ones, dump their stacks and exit; kill those that do not.

    Takes about PATIENCE_S. A rank whose threads cannot run (something in C holds the GIL) is aborted, which dumps its
    stacks.
    """
    for number, share in ((HANG, 0.7), (signal.SIGABRT, 0.3), (signal.SIGKILL, 0.0)):
        for pid in pids:
            _send(pid, number)
            _send(pid, signal.SIGCONT)
        deadline = time.monotonic() + share * PATIENCE_S
        while any(running(pid) for pid in pids) and time.monotonic() < deadline:
            time.sleep(0.02)
        pids = [pid for pid in pids if running(pid)]


def running(pid: int) -> bool:
    """Return whether a process exists and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return not Path("/proc").is_dir() and process_alive(pid)


def _send(pid: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
