"""The running benchmark task, on disk, so that a task that kills or hangs the process does not do so repeatedly.

`RUN/evaluations/attempts.json` names each task before it starts. If the next attempt of the run finds a name there,
that task ended the previous attempt: it is not retried at this stage, and after two such stages it is skipped for the
rest of the run. An attempt that was stopped by a signal does not count, unless it happens three times in a row during
the same task: the launcher also signals all ranks after one of them has died.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from curriculum.artifact.files import ArtifactError, read_text, reading, write_text
from train.records.layout import EVALUATIONS

log = logging.getLogger(__name__)

ATTEMPTS = "attempts.json"
MOST_STAGES = 2
"""A task that ended the process at this many stages is skipped for the rest of the run."""
MOST_ASKED = 3
"""After this many consecutive attempts stopped by a signal during a task, the task counts as the cause."""


class Attempts:
    """The attempts at the tasks of one stage. Exists only on rank 0."""

    def __init__(self, run: Path, step: int, unsound: Callable[[str], str | None] = lambda _: None) -> None:
        self._path = run / EVALUATIONS / ATTEMPTS
        self._step = step
        self._unsound = unsound
        """Returns why a task cannot run now, None if it can."""
        self._lock = threading.Lock()  # `asked_to_leave` is called from the signal thread
        self._running: dict[str, Any] | None = None
        self._ended: dict[str, list[int]] = {}
        self._asked: dict[str, int] = {}
        self._read()

    def begin(self, task: str) -> str | None:
        """Record that a task is about to run; return why it must not run, None if it may."""
        steps = sorted(set(self._ended.get(task, [])))
        if self._step in steps:
            return "ended the process at an earlier attempt"
        if len(steps) >= MOST_STAGES:
            return f"ended the process at the stages of steps {', '.join(map(str, steps))}: skipped in this run"
        if reason := self._unsound(task):
            return reason
        self._note({"task": task, "step": self._step, "asked": False})
        return None

    def end(self) -> None:
        """Record that the running task has ended, whatever its outcome."""
        if self._running is not None:
            self._asked.pop(self._running["task"], None)
            self._note(None)

    def asked_to_leave(self) -> None:
        """Record that this attempt is stopped by a request, not by the running task."""
        if self._running is not None:
            self._note({**self._running, "asked": True})

    def _note(self, running: dict[str, Any] | None) -> None:
        with self._lock:
            self._running = running
            self._path.parent.mkdir(exist_ok=True)
            state = {"running": running, "asked": self._asked, "ended": self._ended}
            write_text(self._path, json.dumps(state, indent=1) + "\n")

    def _read(self) -> None:
        if not self._path.is_file():
            return
        try:
            with reading(self._path, "all tasks will be tried again"):
                running, asked, ended = _checked(json.loads(read_text(self._path)))
        except ArtifactError as error:
            log.warning("%s", error)
            return
        self._asked, self._ended = asked, ended
        if running is None:
            return
        task = running["task"]
        count = asked.get(task, 0) + 1
        if running["asked"] and count < MOST_ASKED:
            asked[task] = count
        else:
            asked.pop(task, None)
            ended.setdefault(task, []).append(running["step"])
            log.warning("benchmark %s ended the previous attempt of this run: skipping it", task)
        self._note(None)


def _checked(state: Any) -> tuple[dict[str, Any] | None, dict[str, int], dict[str, list[int]]]:
    """Return the fields of attempts.json. Raises TypeError or KeyError if they are missing or of other types."""
    running, asked, ended = state["running"], dict(state["asked"]), dict(state["ended"])
    good = all(type(count) is int for count in asked.values())
    good &= all(isinstance(steps, list) and all(type(step) is int for step in steps) for steps in ended.values())
    if running is not None:
        good &= isinstance(running["task"], str) and type(running["step"]) is int and type(running["asked"]) is bool
    if not good:
        raise TypeError("its values have the wrong types")
    return running, asked, ended


def forget_attempts(run: Path) -> None:
    """Delete the attempts of a RUN, so that every task is tried again: they have succeeded meanwhile."""
    (run / EVALUATIONS / ATTEMPTS).unlink(missing_ok=True)
