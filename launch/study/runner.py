"""Run steps: each in a process of its own with a log, as many at once as there is room for, and none of them twice.

A step that has succeeded leaves a file in `done` with its command line. If the study is killed, its processes end with
it, and running it again continues with the steps that are missing.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from curriculum.artifact.files import no_links, read_text, reading, write_text
from curriculum.work.printable import printable
from launch.study.steps import Step

log = logging.getLogger(__name__)

POLL_S = 0.2
SHOWN_LINES = 15
"""Last lines of the log of a failed step that are shown."""
PR_SET_PDEATHSIG = 1


@dataclass
class Running:
    """A step that is running."""

    step: Step
    process: subprocess.Popen[bytes]
    began: float = field(default_factory=time.monotonic)


class Runner:
    """Runs the steps of a study."""

    def __init__(
        self, folder: Path, steps: Sequence[Step], room: int, at_once: int | None, command: Callable[[Step], list[str]]
    ) -> None:
        """`room`: CPUs or GPUs to share out; `command` returns the command line of a step."""
        self._folder, self._room, self._command = folder, room, command
        self._most = at_once or len(steps)
        self._steps = list(steps)
        self._done = {step.name for step in steps if is_done(folder, step)}
        self._failed: dict[str, int] = {}
        self._running: list[Running] = []

    def run(self) -> int:
        """Run all missing steps; return 0, or the exit code of the first step that failed.

        A failure holds up only the steps that need the failed one. On KeyboardInterrupt, the running steps are
        interrupted too, and have written their checkpoints when this returns.
        """
        waiting = [step for step in self._steps if step.name not in self._done]
        if self._done:
            log.info("%d of %d steps are already done", len(self._done), len(self._steps))
        try:
            while waiting or self._running:
                waiting = [step for step in waiting if not self._failed.keys() & set(step.needs) or self._skip(step)]
                while (step := self._next(waiting)) is not None:
                    waiting.remove(step)
                    self._start(step)
                self._collect()
        except BaseException:
            self._interrupt()
            raise
        if self._failed:
            names = ", ".join(name for name, code in self._failed.items() if code)
            log.error("failed: %s: run the same command again to continue", names)
        return next(iter(self._failed.values()), 0)

    def _skip(self, step: Step) -> bool:
        """Count a step that needs a failed one as failed; return False."""
        self._failed[step.name] = 0
        return False

    def _next(self, waiting: Sequence[Step]) -> Step | None:
        """Return a step that can start now; None if there is none."""
        if len(self._running) >= self._most:
            return None
        busy = sum(self._width(running.step) for running in self._running)
        for step in waiting:
            if set(step.needs) <= self._done and (not self._running or busy + self._width(step) <= self._room):
                return step
        return None

    def _width(self, step: Step) -> int:
        return self._room if step.width is None else step.width

    def _start(self, step: Step) -> None:
        path = log_of(self._folder, step)
        for folder in (path.parent, done_of(self._folder, step).parent, step.output.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with open(path, "ab", opener=no_links) as file:
            process = subprocess.Popen(
                self._command(step), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                start_new_session=True, preexec_fn=partial(_end_with_parent, os.getpid()),
            )  # fmt: skip
        log.info("started %s (pdpc %s; log: %s)", step.name, step.verb, path)
        self._running.append(Running(step, process))

    def _collect(self) -> None:
        """Wait a moment, and note the steps that have ended."""
        time.sleep(POLL_S)
        for running in [one for one in self._running if one.process.poll() is not None]:
            self._running.remove(running)
            step, code = running.step, running.process.returncode
            if code == 0:
                write_text(done_of(self._folder, step), json.dumps({"verb": step.verb, "words": step.words}) + "\n")
                self._done.add(step.name)
                seconds = time.monotonic() - running.began
                log.info("%d of %d steps: %s, %.0f s", len(self._done), len(self._steps), step.name, seconds)
                continue
            self._failed[step.name] = code if code > 0 else 128 - code
            path = log_of(self._folder, step)
            last = path.read_text("utf-8", "replace").splitlines()[-SHOWN_LINES:]
            print(f"{step.name} failed with exit code {code}; the end of {path}:", file=sys.stderr)
            print("\n".join(f"  {printable(line)}" for line in last), file=sys.stderr)

    def _interrupt(self) -> None:
        """Ask what is running to stop, and wait until it has."""
        for running in self._running:
            running.process.send_signal(signal.SIGINT)
        for running in self._running:
            running.process.wait()


def log_of(folder: Path, step: Step) -> Path:
    """Return the path of a step's log."""
    return folder / "logs" / f"{step.name}.log"


def done_of(folder: Path, step: Step) -> Path:
    """Return the path of the file that says that a step has succeeded."""
    return folder / "done" / f"{step.name}.json"


def is_done(folder: Path, step: Step) -> bool:
    """Tell whether a step has succeeded and its output is still there.

    Raises ValueError if it has succeeded with other settings.
    """
    path = done_of(folder, step)
    if not path.is_file() or not step.output.exists():
        return False
    with reading(path, "remove it to run the step again"):
        made = {"verb": "", "words": [], **json.loads(read_text(path))}
    if made != {"verb": step.verb, "words": step.words}:
        raise ValueError(
            f"{step.output} was made with other settings (pdpc {made['verb']} {' '.join(made['words'])}): choose "
            "another output for the changed study"
        )
    return True


def _end_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies, which may be process 1 of a container."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
