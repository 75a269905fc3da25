"""A deadline for third-party code in the main thread that strikes only where nothing is left half done.

A benchmark task may sleep or loop forever. A thread then sends the main thread a signal, whose handler raises `TooLate`
wherever the interpreter is: in a sleep, a loop, a read, but never inside `held`. Collectives
(train/distributed/collectives.py) and forward passes complete first, so no collective is left half done; the rank that
is late reports it to the others in their next collective. Code that never returns to the interpreter (a loop in C) is
out of reach: the watchdog then ends the run, and its next attempt skips the task (train/evaluation/attempts.py).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNAL = signal.SIGVTALRM
"""Not SIGALRM, which tasks use themselves."""
AGAIN_S = 2.0
"""Interval at which the signal is repeated: the code may have caught the first one."""


class TooLate(BaseException):
    """The deadline has passed. Not an Exception, because a task's own `except Exception` would hide it."""


class Deadline:
    """A time limit for a piece of work; there is none outside `within`."""

    def __init__(self) -> None:
        self._armed = False
        self._late = False
        self._held = 0
        self._message = ""

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Raise TooLate inside once the time is up. Does nothing outside the main thread: only that gets signals."""
        main = threading.current_thread()
        if main is not threading.main_thread():
            yield
            return
        assert main.ident is not None
        self._message = f"not done after {seconds:g} s"
        self._late, self._armed = False, True
        over = threading.Event()
        clock = threading.Thread(target=_ring, args=(main.ident, seconds, over), name="deadline", daemon=True)
        before = signal.signal(SIGNAL, self._strike)
        clock.start()
        try:
            yield
        finally:
            self._armed = False
            over.set()
            clock.join()
            signal.signal(SIGNAL, before)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Run a block that must not be interrupted; if it succeeds, a missed deadline is raised at its end."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if self._late and self._armed and not self._held:
            raise TooLate(self._message)

    def lift(self) -> None:
        """Cancel the deadline: the work is over on all ranks, for another reason."""
        self._armed = False

    def _strike(self, _number: int, _frame: FrameType | None) -> None:
        if not self._armed:
            return
        if self._held:
            self._late = True
            return
        raise TooLate(self._message)


def _ring(main: int, seconds: float, over: threading.Event) -> None:
    while not over.wait(seconds):
        signal.pthread_kill(main, SIGNAL)
        seconds = AGAIN_S
