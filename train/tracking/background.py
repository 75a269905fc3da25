"""A queue and a thread between the training loop and a destination that may be slow, unreachable, or hang."""

from __future__ import annotations

import logging
import queue
import threading
import time
from typing import Protocol

from train.config.secrets import without_secrets
from train.faults import fault
from train.tracking.metrics import Record

log = logging.getLogger(__name__)

POLL_S = 0.1
"""How often an idle thread checks whether the run is over."""
LONGEST_PAUSES = 10
"""The pause between attempts grows up to this multiple of the first one."""


class Destination(Protocol):
    """A place that shows records. Every method may block, raise, or hang: it is called from a background thread."""

    title: str
    """Name in the log."""

    def connect(self) -> None:
        """Prepare for records; called again after a failure."""

    def send(self, record: Record) -> None:
        """Send a record."""

    def finish(self) -> None:
        """Flush and close."""


class Background:
    """Sends records to a destination from a background thread: `log` never waits and never raises.

    A failed destination is retried after a pause; meanwhile up to `size` records are queued, and further ones are
    dropped and counted. The first failure is logged, and the counts are logged at the end.
    """

    def __init__(self, destination: Destination, size: int, retry_s: float) -> None:
        self.destination = destination
        self.sent = 0
        """Records accepted by the destination."""
        self.dropped = 0
        """Records dropped because the queue was full."""
        self.connected = False
        self._retry_s = retry_s
        self._waiting: queue.Queue[Record] = queue.Queue(size)
        self._closing = threading.Event()
        self._warned = False
        self._unconfirmed = False
        self._thread = threading.Thread(target=self._work, name=f"tracker-{destination.title}", daemon=True)
        self._thread.start()

    def log(self, record: Record) -> None:
        """Queue one record of metrics.jsonl, or count it as dropped."""
        try:
            self._waiting.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def begin_finish(self) -> None:
        """Let the thread send the queued records and close, without waiting for it."""
        self._closing.set()

    def finish(self, limit_s: float) -> None:
        """Wait up to `limit_s` seconds until everything is sent; log what was not."""
        self.begin_finish()
        self._thread.join(limit_s)
        late = self._thread.is_alive()
        left = self._waiting.qsize()
        if self.dropped or left or late or self._unconfirmed:
            log.warning(
                "%s: %s records sent, %s still queued, %s dropped%s; metrics.jsonl has all records%s",
                self.destination.title,
                self.sent,
                left,
                self.dropped,
                f", not closed within {limit_s:g} s" if late else ", the last ones unconfirmed" * self._unconfirmed,
                " (send them with `pdpc report RUN --wandb`)" if self.destination.title == "W&B" else "",
            )

    def _work(self) -> None:
        pause_s = self._retry_s
        record: Record | None = None
        while True:
            try:
                if not self.connected:
                    fault("tracker.start")
                    self.destination.connect()
                    self.connected = True
                    pause_s = self._retry_s
                while record is not None or (record := self._next()) is not None:
                    fault("tracker.log")
                    self.destination.send(record)
                    self.sent += 1
                    record = None
                break
            except (Exception, SystemExit) as error:
                self.connected = False
                self._warn(error)
            if self._closing.wait(pause_s):
                if record is not None:
                    self.dropped += 1
                return
            pause_s = min(2 * pause_s, LONGEST_PAUSES * self._retry_s)
        try:
            fault("tracker.finish")
            self.destination.finish()
        except (Exception, SystemExit) as error:
            self._unconfirmed = True
            self._warn(error)

    def _next(self) -> Record | None:
        """Return the next record; None once the run is over and the queue is empty."""
        while True:
            over = self._closing.is_set()
            try:
                return self._waiting.get_nowait() if over else self._waiting.get(timeout=POLL_S)
            except queue.Empty:
                if over:
                    return None

    def _warn(self, error: BaseException) -> None:
        if not self._warned:
            self._warned = True
            log.warning(
                "cannot reach %s (%s): training continues, metrics.jsonl has all records; will retry",
                self.destination.title,
                error_line(error),
            )


class Trackers:
    """Several destinations, each with a separate queue and thread."""

    def __init__(self, parts: list[Background], finish_s: float) -> None:
        self.parts = parts
        self._finish_s = finish_s

    def log(self, record: Record) -> None:
        """Queue a record for every destination."""
        for part in self.parts:
            part.log(record)

    def finish(self) -> None:
        """Close them all within one time limit."""
        deadline = time.monotonic() + self._finish_s
        for part in self.parts:
            part.begin_finish()
        for part in self.parts:
            part.finish(max(0.0, deadline - time.monotonic()))


def error_line(error: BaseException) -> str:
    """Return an error as one line of at most 300 characters, without secrets."""
    return without_secrets(" ".join(f"{type(error).__name__}: {error}".split()))[:300]
