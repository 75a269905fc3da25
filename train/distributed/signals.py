"""Signals: SIGTERM, SIGINT and SIGUSR1 ask a run to write a checkpoint and exit; SIGHUP counts as SIGTERM.

A dedicated thread reads the signals, because Python's handlers wait while the main thread is in a collective. All ranks
agree on the step at which they stop: in every step, the largest signal number that any rank has received is reduced on
a CPU group, started before the step and read after it, so neither GPU nor host waits for it. Outside training steps
(while a run starts, evaluates or exports) there is nothing to save: the rank exits at once.
"""

from __future__ import annotations

import _thread
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from train.distributed.exit_codes import DISK_FULL, FAILED, GUARD_STOPPED, HUNG, OUT_OF_MEMORY, REFUSED, UNREADABLE
from train.distributed.heartbeat import leave
from train.distributed.world import World

log = logging.getLogger(__name__)

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Signals that ask a run to exit."""
HANG = signal.SIGUSR2
"""Sent by the rank, or the supervisor, that has found a hang: the receiving rank dumps its stacks and exits."""
SAME_S = 1.0
"""Signals within this time count as one request: a terminal and a launcher both pass on what they get."""
POSTED = "pdpc/left"
"""Key in the ranks' store with the exit code of a rank that exited without the others."""


HEEDED = (FAILED, REFUSED, OUT_OF_MEMORY, UNREADABLE, DISK_FULL, GUARD_STOPPED)
"""Codes of a rank that cannot continue, after which the others need not wait. A hanging rank must dump its stacks
first."""


class Left(Exception):  # nothing went wrong
    """The run wrote a checkpoint and exited, on a signal."""

    def __init__(self, number: int, step: int) -> None:
        self.exit_code = 128 + number
        name = signal.Signals(number).name
        super().__init__(f"exited on {name} with a checkpoint of step {step}: run the same command again to resume")


class Signals:
    """The signals sent to this process. `install` once, in the main thread."""

    def __init__(self, grace_s: float, leave: Callable[[int], Any] = leave) -> None:
        self.number = 0
        """The first signal that asked the run to exit; 0: none yet."""
        self.holds = False
        """Is there work to save? Then the first signal waits for the next step boundary, `grace_s` at most."""
        self.over = False
        """Is the run complete? Then a signal has no effect."""
        self.at_hang: Callable[[], None] = _nothing
        """Called before the rank exits because another one, or the supervisor, has found a hang."""
        self.at_leave: Callable[[], object] = _nothing
        """Called, in the thread that reads the signals, before the rank exits at once on a signal."""
        self._grace_s = grace_s
        self._leave = leave
        self._first_at = 0.0
        self._flag = torch.zeros(1, dtype=torch.int32)
        self._asked: Any = None
        self._before: dict[int, Any] = {}
        self._ends: tuple[socket.socket, socket.socket] | None = None

    def install(self) -> None:
        """Install the handlers. Does nothing outside the main thread, where Python does not allow it."""
        if threading.current_thread() is not threading.main_thread():
            return
        self._ends = socket.socketpair()
        for end in self._ends:
            end.setblocking(False)
        self._wakeup_before = signal.set_wakeup_fd(self._ends[1].fileno(), warn_on_full_buffer=False)
        heard = [signal.SIGHUP] if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN else []  # nohup
        self._before = {number: signal.signal(number, _heard) for number in (*ASKING, HANG, *heard)}
        threading.Thread(target=self._listen, args=(self._ends[0],), name="signals", daemon=True).start()

    def close(self) -> None:
        """Restore the previous handlers."""
        if self._ends is None:
            return
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._ends[1].close()  # the thread reads the end of it
        self._ends = None

    def ask(self, world: World) -> None:
        """Start to ask all ranks whether one of them has to exit; `answer` completes it. Every rank calls both."""
        self._flag[0] = self.number
        if world.size > 1:
            self._asked = dist.all_reduce(self._flag, dist.ReduceOp.MAX, group=world.hosts, async_op=True)

    def answer(self) -> int:
        """Return the signal on which all ranks exit, the same on every rank; 0: none."""
        if self._asked is not None:
            self._asked.wait()
            self._asked = None
        return int(self._flag[0])

    @contextmanager
    def holding(self, there_is_work: bool = True) -> Iterator[None]:
        """Set whether there is work to save inside. If there is none, a waiting signal takes effect at once."""
        before, self.holds = self.holds, there_is_work
        try:
            if not there_is_work and self.number:
                self._leave_now(self.number, "there is nothing to save")
            yield
        finally:
            self.holds = before

    def _listen(self, end: socket.socket) -> None:
        while True:
            waits_s = max(0.0, self._first_at + self._grace_s - time.monotonic()) if self.number else None
            ready, _, _ = select.select([end], [], [], waits_s)
            if not ready and self.over:
                self.number = 0  # nothing waits any more
                continue
            if not ready:
                self._leave_now(
                    self.number, f"the grace period of {self._grace_s:g} s is over, no checkpoint was written"
                )
                return
            numbers = end.recv(64)
            if not numbers:
                end.close()
                return
            for number in numbers:
                self._take(number)

    def _take(self, number: int) -> None:
        number = signal.SIGTERM if number == signal.SIGHUP else number
        if number == HANG:
            self.at_hang()
            self._leave(HUNG)
        if number not in ASKING or self.over:
            return
        now = time.monotonic()
        if self.number and now - self._first_at > SAME_S:
            self._leave_now(number, "asked a second time")
        elif not self.number:
            self.number, self._first_at = number, now
            if not self.holds:
                self._leave_now(number, "there is nothing to save")
            else:
                rank = os.environ.get("RANK", "0")
                log.warning(
                    "%s to rank %s: the run writes a checkpoint after this step and exits",
                    signal.Signals(number).name,
                    rank,
                )

    def _leave_now(self, number: int, why: str) -> None:
        log.warning("%s: rank %s exits at once (%s)", signal.Signals(number).name, os.environ.get("RANK", "0"), why)
        with suppress(Exception):
            self.at_leave()
        post(128 + number)
        self._leave(128 + number)


def _nothing() -> None:
    """Do nothing."""


def _heard(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: the number is in the socket that the thread reads."""


def post(code: int, wait_s: float = 1.0) -> None:
    """Post this rank's exit code to the others before it exits. Rank 0 holds the store and waits a moment."""
    began = time.monotonic()
    store = _store()
    if store is None:
        return
    if threading.current_thread() is threading.main_thread():
        store.set(POSTED, str(code))  # sent without waiting; no other thread uses the store now
    else:
        _within(wait_s, lambda: store.set(POSTED, str(code)))
    if os.environ.get("RANK", "0") == "0" and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        time.sleep(max(0.0, began + wait_s - time.monotonic()))


def posted(wait_s: float = 1.0) -> int:
    """Return the exit code of another rank that exited before this one failed; 0: none known."""
    store = _store()
    if store is None:
        return 0
    return int(_within(wait_s, lambda: store.get(POSTED) if store.check([POSTED]) else b"0") or 0)


def heed(ask_s: float = 2.0, patience_s: float = 3.0) -> None:
    """Exit, with its code, soon after another rank has exited because it could not continue: see HEEDED.

    Most ranks notice by themselves, because a connection breaks. A rank in a call without a connection to the lost one
    (DeepSpeed creating process groups, an NCCL sum) would wait for half an hour. A dedicated thread polls for the code,
    over its own connection.
    """
    store = _store()
    if store is None:
        return
    store = store.clone()

    def listen() -> None:
        code = 0
        while code not in HEEDED:
            time.sleep(ask_s)
            try:
                code = int(store.get(POSTED)) if store.check([POSTED]) else 0
            except Exception:
                return  # rank 0, which holds the store, is gone: the broken connection says the same
        time.sleep(patience_s)
        log.warning("rank %s exits: another rank exited with code %s", os.environ.get("RANK", "0"), code)
        leave(code)

    threading.Thread(target=listen, name="heed", daemon=True).start()


def _store() -> Any:
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    return dist.distributed_c10d._get_default_store()


def _within(seconds: float, action: Callable[[], Any]) -> Any:
    """Return an action's result; None when it fails or takes longer: the store's host may be gone or stopped."""
    results: list[Any] = []

    def run() -> None:
        try:
            results.append(action())
        except Exception:
            results.append(None)

    deadline = time.monotonic() + seconds
    with suppress(RuntimeError):
        _thread.start_new_thread(run, ())  # Thread.start() would wait forever for one that runs out of memory at start
        while not results and time.monotonic() < deadline:
            time.sleep(0.005)
    return results[0] if results else None
