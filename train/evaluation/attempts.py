"""Which task is running, on disk: one that ends the process, or makes it hang, must not do so for ever.

`RUN/evaluations/attempts.json` names the task before it begins. When the next life of the run finds a name there, that
task ended the life before: it is not tried again at this stage, and after two such stages not in this run. A life that
was asked to leave (a signal) was not ended by the task; three in a row in the same task count all the same, for the
launcher asks every rank to leave when one of them has died.
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from curriculum.artifact.manifest import ArtifactError, reading, write_text
from train.evaluation.answers import EVALUATIONS

log = logging.getLogger(__name__)

ATTEMPTS = "attempts.json"
MOST_STAGES = 2
"""A task that ended the process at so many stages is left out for the rest of the run."""
MOST_ASKED = 3
"""Lives in a row that were asked to leave while a task ran: with the last of them the task is the reason."""


class Attempts:
    """The attempts at the tasks of one stage. Rank 0 alone has one."""

    def __init__(self, run: Path, step: int, unsound: Callable[[str], str | None] = lambda _: None) -> None:
        self._path = run / EVALUATIONS / ATTEMPTS
        self._step = step
        self._unsound = unsound
        """Why a task cannot be asked now, None when it can."""
        self._lock = threading.Lock()  # `asked_to_leave` comes from the thread that reads signals
        self._running: dict[str, Any] | None = None
        self._ended: dict[str, list[int]] = {}
        self._asked: dict[str, int] = {}
        self._read()

    def begin(self, task: str) -> str | None:
        """Write down that a task is about to run; return why it must not, None when it may."""
        steps = sorted(set(self._ended.get(task, [])))
        if self._step in steps:
            return "ended the process at an earlier attempt"
        if len(steps) >= MOST_STAGES:
            return f"ended the process at the stages of steps {', '.join(map(str, steps))}: left out in this run"
        if reason := self._unsound(task):
            return reason
        self._note({"task": task, "step": self._step, "asked": False})
        return None

    def end(self) -> None:
        """Write down that the task which was begun has ended, whatever it gave."""
        if self._running is not None:
            self._asked.pop(self._running["task"], None)
            self._note(None)

    def asked_to_leave(self) -> None:
        """Write down that this life ends because it was asked to, and not through the task that is running."""
        if self._running is not None:
            self._note({**self._running, "asked": True})

    def _note(self, running: dict[str, Any] | None) -> None:
        with self._lock:
            self._running = running
            self._path.parent.mkdir(exist_ok=True)
            told = {"running": running, "asked": self._asked, "ended": self._ended}
            write_text(self._path, json.dumps(told, indent=1) + "\n")

    def _read(self) -> None:
        if not self._path.is_file():
            return
        try:
            with reading(self._path, "every task is tried again"):
                told = json.loads(self._path.read_text("utf-8"))
                running, asked, ended = _checked(told)
        except ArtifactError as error:
            log.warning("%s", error)
            return
        self._asked, self._ended = asked, ended
        if running is None:
            return
        task = running["task"]
        lives = asked.get(task, 0) + 1
        if running["asked"] and lives < MOST_ASKED:
            asked[task] = lives
        else:
            asked.pop(task, None)
            ended.setdefault(task, []).append(running["step"])
            log.warning("benchmark %s ended the life of this run before this one: it is passed over", task)
        self._note(None)


def _checked(told: Any) -> tuple[dict[str, Any] | None, dict[str, int], dict[str, list[int]]]:
    """Return what the file says. Raises TypeError or KeyError when it says something else."""
    running, asked, ended = told["running"], dict(told["asked"]), dict(told["ended"])
    good = all(type(lives) is int for lives in asked.values())
    good &= all(isinstance(steps, list) and all(type(step) is int for step in steps) for steps in ended.values())
    if running is not None:
        good &= isinstance(running["task"], str) and type(running["step"]) is int and type(running["asked"]) is bool
    if not good:
        raise TypeError("its values are of other types")
    return running, asked, ended


def forget_attempts(run: Path) -> None:
    """Let every task be tried again in a RUN: they ran well meanwhile."""
    (run / EVALUATIONS / ATTEMPTS).unlink(missing_ok=True)
