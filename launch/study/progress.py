"""How far a study is: steps done, tokens that its runs have read and will read, and the time left."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from curriculum.artifact.files import ArtifactError
from curriculum.artifact.manifest import read_manifest
from curriculum.work.progress import Meter, duration
from launch.study.steps import Run, Step, Steps

LAST_BYTES = 1 << 16
"""End of metrics.jsonl in which the last record is looked for."""
READ_EVERY_S = 2.0


class StudyProgress(Meter):
    """Shows the steps that are done and running, and the training tokens with their speed and the time left."""

    line_every_s = 60.0

    def __init__(self, console: Console, steps: Steps) -> None:
        super().__init__(console, "study", self._share)
        self._steps = steps
        self._done: Collection[str] = ()
        self._running: Collection[str] = ()
        self._sizes: dict[str, int] = {}
        self._read = self._before = 0
        self._read_at = self._began = 0.0

    def add(self, done: Collection[str], running: Collection[str]) -> None:
        """Take the names of the steps that are done and running, and show the progress if it is time to."""
        self._done, self._running = set(done), list(running)
        if time.monotonic() - self._read_at >= READ_EVERY_S or not self._running:
            self._read_at = time.monotonic()
            self._read = sum(self._tokens_of(run) for run in self._steps.runs)
            if not self._began and any(run.step.name in self._running for run in self._steps.runs):
                self._began, self._before = self._read_at, self._read
        self.tick()

    def amount(self, seconds: float) -> str:
        """Return steps, tokens, tokens/s since the first run of this call, and the time left at that speed."""
        text = f"{len(self._done)} of {len(self._steps.all)} steps done, {len(self._running)} running"
        total = expected_tokens(self._steps, self._sizes)
        if total is None:
            return text
        text += f", {self._read:,} of {total:,} training tokens"
        speed = (self._read - self._before) / max(time.monotonic() - self._began, 1e-9) if self._began else 0.0
        if speed and self._read < total:
            text += f", {speed:,.0f} tok/s, {duration((total - self._read) / speed)} left"
        return text

    def _share(self) -> float:
        total = expected_tokens(self._steps, self._sizes)
        return self._read / total if total else len(self._done) / len(self._steps.all)

    def _tokens_of(self, run: Run) -> int:
        """Return the tokens that a run has read: all of its order's once it is done."""
        size = size_of(run, self._steps, self._sizes)
        if run.step.name in self._done and size is not None:
            return size
        return max(0, tokens_read(run.step.output) - shared_tokens(run, self._steps))


def expected_tokens(steps: Steps, sizes: dict[str, int]) -> int | None:
    """Return the tokens that all runs will read, if those without an order are like the others; None without any."""
    known = [size for run in steps.runs if (size := size_of(run, steps, sizes)) is not None]
    return round(sum(known) / len(known) * len(steps.runs)) if known else None


def size_of(run: Run, steps: Steps, sizes: dict[str, int]) -> int | None:
    """Return the tokens that a run trains on: its samples times their length, for a branch those after the trunk's.

    None if its order has not been made. `sizes` keeps them by order.
    """
    order = _order_of(run, steps)
    if order.name not in sizes:
        with suppress(ArtifactError):
            facts = read_manifest(order.output, "order").facts
            if facts.get("seq_len"):  # an order without tokens does not know it
                sizes[order.name] = int(facts["samples"]) * int(facts["seq_len"]) - shared_tokens(run, steps)
    return sizes.get(order.name)


def shared_tokens(run: Run, steps: Steps) -> int:
    """Return the tokens that a branch has from its trunk; 0 for other runs."""
    order = _order_of(run, steps)
    if order.verb != "replan":
        return 0
    with suppress(ArtifactError):
        facts = read_manifest(order.output, "order").facts
        return int(facts["replanned_at"]["cursor"]) * int(facts.get("seq_len") or 0)
    return 0


def _order_of(run: Run, steps: Steps) -> Step:
    name = f"order_{run.arm}_{run.seed}"
    return next(step for step in steps.all if step.name == name)


def tokens_read(run: Path) -> int:
    """Return the tokens in the last whole record of a run's metrics; 0 without one."""
    with suppress(OSError), open(run / "metrics.jsonl", "rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_BYTES))
        for line in reversed(file.read().split(b"\n")):
            with suppress(ValueError, KeyError, TypeError):
                return int(json.loads(line)["tokens"])
    return 0
