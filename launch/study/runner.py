"""Run steps: each in a process of its own with a log, as many at once as there is room for, and none of them twice.

Steps that run at the same time have different GPUs. A step that has succeeded leaves a file in `done` with its command
line and the fingerprint of its output. If the study is killed, its processes end with it, and running it again
continues with the steps that are missing.
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
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import FrameType

from curriculum.artifact.files import ArtifactError, no_links, read_text, reading, write_text
from curriculum.artifact.manifest import open_manifest
from curriculum.work.printable import printable
from launch.cluster.supervisor import DEVICES
from launch.study.progress import StudyProgress
from launch.study.steps import Step
from train.records.run_json import read_run

log = logging.getLogger(__name__)

POLL_S = 0.2
SHOWN_LINES = 15
"""Last lines of the log of a failed step that are shown."""
KINDS = {"prepare": "tokens", "adopt": "tokens", "arrange": "order", "replan": "order", "score": "scores"}
"""Verbs whose output is an artifact, with its kind."""
REMAKE = "restore it, or remove it to make it again"
PR_SET_PDEATHSIG = 1


@dataclass
class Running:
    """A step that is running."""

    step: Step
    process: subprocess.Popen[bytes]
    devices: list[str]
    """GPUs that no other step uses meanwhile; empty without GPUs."""
    began: float = field(default_factory=time.monotonic)


class Runner:
    """Runs the steps of a study."""

    def __init__(
        self,
        folder: Path,
        steps: Sequence[Step],
        room: int | Sequence[str],
        at_once: int | None,
        command: Callable[[Step], list[str]],
        progress: StudyProgress | None = None,
    ) -> None:
        """`room`: CPUs to share out, or the GPUs; `command` returns the command line of a step."""
        self._folder, self._command, self._progress = folder, command, progress
        self._devices = [] if isinstance(room, int) else list(room)
        self._room = room if isinstance(room, int) else len(room)
        self._most = at_once or len(steps)
        self._steps = list(steps)
        self._done = {step.name for step in steps if is_done(folder, step)}
        self._failed: dict[str, int] = {}
        self._running: list[Running] = []
        self._asked = 0

    def run(self) -> int:
        """Run all missing steps; return 0, or the exit code of the first step that failed.

        A failure holds up only the steps that need the failed one. On KeyboardInterrupt, the running steps are
        interrupted too, and have written their checkpoints when this returns. SIGTERM and SIGUSR1 are passed on to
        them, nothing else is started, and the exit code is 128 plus the signal's number.
        """
        waiting = [step for step in self._steps if step.name not in self._done]
        if self._done:
            log.info("%d of %d steps are already done", len(self._done), len(self._steps))
        handlers = {number: signal.signal(number, self._leave) for number in (signal.SIGTERM, signal.SIGUSR1)}
        try:
            with self._progress or nullcontext():
                while (waiting and not self._asked) or self._running:
                    waiting = [
                        step for step in waiting if not self._failed.keys() & set(step.needs) or self._skip(step)
                    ]
                    while (step := self._next(waiting)) is not None:
                        waiting.remove(step)
                        self._start(step)
                    self._collect()
        except BaseException:
            self._interrupt()
            raise
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if self._asked:
            log.warning("left on %s: run the same command again to continue", signal.Signals(self._asked).name)
            return 128 + self._asked
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
        if self._asked or len(self._running) >= self._most:
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
        used = {device for running in self._running for device in running.devices}
        devices = [device for device in self._devices if device not in used][: self._width(step)]
        environment = {**os.environ, **({DEVICES: ",".join(devices)} if devices else {})}
        with open(path, "ab", opener=no_links) as file:
            process = subprocess.Popen(
                self._command(step), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                env=environment, start_new_session=True, preexec_fn=partial(_end_with_parent, os.getpid()),
            )  # fmt: skip
        where = f" on GPU {', '.join(devices)}" if devices else ""
        log.info("started %s%s (pdpc %s; log: %s)", step.name, where, step.verb, path)
        self._running.append(Running(step, process, devices))
        if self._asked:  # while it was being started
            process.send_signal(self._asked)

    def _collect(self) -> None:
        """Wait a moment, and note the steps that have ended."""
        time.sleep(POLL_S)
        for running in [one for one in self._running if one.process.poll() is not None]:
            self._running.remove(running)
            step, code = running.step, running.process.returncode
            if code == 0:
                code = self._note(step)
            if code == 0:
                seconds = time.monotonic() - running.began
                log.info("%d of %d steps: %s, %.0f s", len(self._done), len(self._steps), step.name, seconds)
                continue
            self._failed[step.name] = code if code > 0 else 128 - code
            if not self._asked:
                path = log_of(self._folder, step)
                last = path.read_text("utf-8", "replace").splitlines()[-SHOWN_LINES:]
                print(f"{step.name} failed with exit code {code}; the end of {path}:", file=sys.stderr)
                print("\n".join(f"  {printable(line)}" for line in last), file=sys.stderr)
        if self._progress is not None:
            self._progress.add(self._done, [running.step.name for running in self._running])

    def _note(self, step: Step) -> int:
        """Write that a step has succeeded; return 0, or 1 if its output is not what it should have written."""
        try:
            mark = {"verb": step.verb, "words": step.words, "fingerprint": print_of(step)}
        except ArtifactError as error:
            log.error("%s: %s", step.name, error)
            return 1
        write_text(done_of(self._folder, step), json.dumps(mark) + "\n")
        self._done.add(step.name)
        return 0

    def _leave(self, number: int, _frame: FrameType | None) -> None:
        """Pass a signal on: runs write a checkpoint and exit."""
        self._asked = number
        for running in self._running:
            running.process.send_signal(number)

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

    Raises ValueError if it has succeeded with other settings, and ArtifactError if the output is incomplete or was
    replaced since. Contents are not read.
    """
    path = done_of(folder, step)
    if not path.is_file() or not step.output.exists():
        return False
    with reading(path, f"remove it to run {step.name} again"):
        made = json.loads(read_text(path))
        verb, words, before = made["verb"], made["words"], made.get("fingerprint")
    if (verb, words) != (step.verb, step.words):
        raise ValueError(
            f"{step.output} was made with other settings (pdpc {verb} {' '.join(words)}): choose another output for "
            "the changed study"
        )
    now = print_of(step)
    if before not in (None, now):
        raise ArtifactError(
            f"{step.output} was replaced after the study had made it, so later steps may have used the old one: "
            "restore it, or choose another output for the study"
        )
    return True


def print_of(step: Step) -> str | None:
    """Return the fingerprint of a step's output; None for verbs that write no artifact. Raises ArtifactError."""
    if step.verb == "train":
        if read_run(step.output)["status"] != "finished":
            raise ArtifactError(f"{step.output} is not finished, though the study had finished it: {REMAKE}")
        return None
    kind = KINDS.get(step.verb)
    return open_manifest(step.output, kind).fingerprint if kind else None


def _end_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies, which may be process 1 of a container."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
