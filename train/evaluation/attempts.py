"""The running part of an evaluation, on disk, so that one that kills or hangs the process does not do so repeatedly.

`RUN/evaluations/attempts.json` names each part (a benchmark task, the held-out loss, gathering the weights at ZeRO 3)
before it starts. If the next attempt of the run finds a name there, that part ended the previous attempt: it is not
retried at this stage, and after two such stages it is skipped for the rest of the run. The held-out loss is our own
code, so a killed machine is the likelier cause: it is retried twice. An attempt that was stopped by a signal does not
count, unless it happens three times in a row during the same part: the launcher also signals all ranks after one of
them has died.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from curriculum.artifact.files import ArtifactError, read_text, reading, write_text
from train.distributed.collectives import Collectives, RankFailed
from train.records.layout import EVALUATIONS

log = logging.getLogger(__name__)

ATTEMPTS = "attempts.json"
MOST_STAGES = 2
"""A part that ended the process at this many stages is skipped for the rest of the run."""
MOST_ASKED = 3
"""After this many consecutive attempts stopped by a signal during a part, the part counts as the cause."""

T = TypeVar("T")


class Attempts:
    """The attempts at the parts of one stage's evaluation. Exists only on rank 0."""

    def __init__(self, run: Path, step: int, unsound: Callable[[str], str | None] = lambda _: None) -> None:
        self._path = run / EVALUATIONS / ATTEMPTS
        self._step = step
        self._unsound = unsound
        """Returns why a part cannot run now, None if it can."""
        self._lock = threading.Lock()  # `asked_to_leave` is called from the signal thread
        self._running: dict[str, Any] | None = None
        self._ended: dict[str, list[int]] = {}
        self._asked: dict[str, int] = {}
        self._read()

    def begin(self, task: str, retries: int = 0) -> str | None:
        """Record that a part is about to run; return why it must not run, None if it may.

        `retries`: how often it is tried again at a stage where it ended the process.
        """
        ends = Counter(self._ended.get(task, []))
        steps = sorted(step for step, times in ends.items() if times > retries)
        if self._step in steps:
            return f"ended the process at {'an earlier attempt' if retries == 0 else f'{retries + 1} earlier attempts'}"
        if len(steps) >= MOST_STAGES:
            return f"ended the process at the stages of steps {', '.join(map(str, steps))}: skipped in this run"
        if reason := self._unsound(task):
            return reason
        self._note({"task": task, "step": self._step, "asked": False})
        return None

    def end(self) -> None:
        """Record that the running part has ended, whatever its outcome."""
        if self._running is not None:
            self._asked.pop(self._running["task"], None)
            self._note(None)

    def asked_to_leave(self) -> None:
        """Record that this attempt is stopped by a request, not by the running part."""
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
            log.warning("the evaluation of %s ended the previous attempt of this run", task)
        self._note(None)


def attempted(
    name: str, work: Callable[[], T], exchange: Collectives, attempts: Attempts | None, retries: int = 0
) -> T:
    """Run a part of an evaluation on all ranks, noted by `attempts` (on rank 0); return this rank's result.

    Raises RankFailed on all ranks if the part must not run, or fails on one, for whatever reason.
    """

    def begin() -> str | None:
        return attempts.begin(name, retries) if attempts else None

    def end() -> None:
        if attempts:
            attempts.end()

    refusal = exchange.gather(f"whether {name}", exchange.run(f"before {name}", begin))[0]
    if refusal is not None:
        raise RankFailed(refusal)
    try:
        result = exchange.run(name, work)
    except RankFailed as failure:
        exchange.run(f"after {name}", end)
        raise failure
    exchange.run(f"after {name}", end)
    return result


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
