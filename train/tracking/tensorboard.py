"""TensorBoard: event files, written by TensorBoard's own writer (the extra `tensorboard`; no TensorFlow, no torch)."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from train.records.layout import TENSORBOARD
from train.tracking.metrics import NONFINITE, Record
from train.tracking.settings import TrackerSettings

"""Folder of the event files in a RUN."""


class EventFile:
    """One event file per attempt of a run, in RUN/tensorboard, and another after each failure.

    Each record is written when `send` returns: TensorBoard's `EventFileWriter` and torch's `SummaryWriter` queue events
    for a thread of their own, and an error in it would be reported at some later record.
    """

    title = "TensorBoard"

    @classmethod
    def of(
        cls, settings: TrackerSettings, folder: Path, name: str, config: Mapping[str, Any], resume_step: int
    ) -> EventFile:
        """Return the destination of a run, not yet connected."""
        return cls(folder, resume_step)

    def __init__(self, folder: Path, resume_step: int) -> None:
        self.folder = folder / TENSORBOARD
        self._shown = resume_step
        """The last step that readers are to keep, shown by an earlier attempt or by this one."""
        self._writer: RecordWriter | None = None

    def connect(self) -> None:
        """Open a new file; readers forget what was shown beyond the step resumed from, or sent since then."""
        self.folder.mkdir(exist_ok=True)
        stamp = f"{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._writer = RecordWriter(open(self.folder / f"events.out.tfevents.{stamp}", "xb"))  # noqa: SIM115
        self._write(file_version="brain.Event:2")
        self._write(step=self._shown + 1, session_log=SessionLog(status=SessionLog.START))

    def send(self, record: Record) -> None:
        """Write a record's numbers as scalars at its step, and the tokens as one of them."""
        numbers = {key: value for key, value in record.items() if isinstance(value, int | float)}
        numbers |= {key: float(value) for key, value in record.get(NONFINITE, {}).items()}
        numbers["trainer/tokens"] = numbers.pop("tokens")
        step = int(numbers.pop("step"))
        values = [Summary.Value(tag=key, simple_value=value) for key, value in numbers.items()]
        self._write(step=step, summary=Summary(value=values))
        self._shown = max(self._shown, step)

    def finish(self) -> None:
        """Close the file."""
        assert self._writer is not None
        self._writer.close()

    def _write(self, **fields: Any) -> None:
        assert self._writer is not None
        self._writer.write(Event(wall_time=time.time(), **fields).SerializeToString())
        self._writer.flush()
