"""A deadline for other people's code in the main thread, which strikes only where nothing is left half done.

A task of a benchmark may sleep or loop for ever. A thread then sends the main thread a signal, whose handler raises
`TooLate` wherever the interpreter is: in a sleep, a loop, a read, but never inside `held`. What the ranks do together
(train/distributed/collectives.py) and a forward pass go to their end first, so no collective is left half done; the rank that was late
tells the others at their next meeting. Code that never comes back to the interpreter (a loop in C) is not reached: the
watchdog ends the run then, and its next life passes the task over (train/evaluation/attempts.py).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNAL = signal.SIGVTALRM
"""Not SIGALRM: tasks use that one themselves."""
AGAIN_S = 2.0
"""After so long the signal is sent again: the code may have caught the first one."""


class TooLate(BaseException):
    """The time is over. Not an Exception, for a task's own `except Exception` would hide it."""


class Deadline:
    """Time that a piece of work has: none unless `within` is entered."""

    def __init__(self) -> None:
        self._armed = False
        self._late = False
        self._held = 0
        self._told = ""

    @contextmanager
    def within(self, seconds: float) -> Iterator[None]:
        """Raise TooLate inside once the time is over. Outside the main thread, which alone gets signals, do nothing."""
        main = threading.current_thread()
        if main is not threading.main_thread():
            yield
            return
        assert main.ident is not None
        self._told = f"not done after {seconds:g} s"
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
        """Do something that must not be broken off; being late is told at its end, if it ended well."""
        self._held += 1
        try:
            yield
        finally:
            self._held -= 1
        if self._late and self._armed and not self._held:
            raise TooLate(self._told)

    def lift(self) -> None:
        """Let there be no deadline any more: the work is over on all ranks, for another reason."""
        self._armed = False

    def _strike(self, _number: int, _frame: FrameType | None) -> None:
        if not self._armed:
            return
        if self._held:
            self._late = True
            return
        raise TooLate(self._told)


def _ring(main: int, seconds: float, over: threading.Event) -> None:
    while not over.wait(seconds):
        signal.pthread_kill(main, SIGNAL)
        seconds = AGAIN_S
