"""The interface of a campaign: its tally, and the seeds that identify its cases.

A campaign is a module of this folder with `FULL: int`, its default number of attempts, and
`run(count: int, seed: int, work: Path) -> Tally`. It draws everything from `case_seeds(seed, count)`, one seed per
attempt, so that `run(1, seed of the case, work)` repeats that attempt. It leaves no process behind; `work` is an empty
folder that is removed afterwards.

Here a *launch* is one start of a run's ranks (an attempt of the run); an *attempt* is one case of a campaign.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

KEPT = 20
"""Maximum number of failures that a tally describes."""
LINE_EVERY_S = 60.0
"""Interval at which a long campaign prints its progress."""


@dataclass
class Tally:
    """The attempts of a campaign and their results."""

    name: str
    attempts: int = 0
    passed: int = 0
    seed: int = 0
    """The campaign's seed: `--seed`, or `--replay` for one case."""
    failures: list[str] = field(default_factory=list)
    """One line per failed attempt, with the seed that replays it."""
    notes: list[str] = field(default_factory=list)
    """Statistics to print even if nothing failed."""
    _printed_at: float = field(default_factory=time.monotonic, repr=False)

    def add(self, seed: int, problem: str | None) -> None:
        """Count an attempt; `problem` describes what went wrong, None: passed. Prints failures, and progress."""
        self.attempts += 1
        if problem is None:
            self.passed += 1
        elif len(self.failures) < KEPT:
            self.failures.append(f"seed {seed}: {problem}")
            self._print(f"failed: {self.failures[-1]}")
        if time.monotonic() - self._printed_at >= LINE_EVERY_S:
            self._print(f"{self.passed:,} of {self.attempts:,} passed so far")

    def _print(self, line: str) -> None:
        """Print a line to stderr; the table is printed at the end."""
        self._printed_at = time.monotonic()
        print(f"{self.name}: {line}", file=sys.stderr, flush=True)

    @property
    def good(self) -> bool:
        """Whether there were attempts and all of them passed."""
        return 0 < self.attempts == self.passed


@dataclass(frozen=True)
class Campaign:
    """A campaign of this folder."""

    name: str
    full: int
    """Default number of attempts."""
    about: str
    """First line of its docstring."""
    run: Callable[[int, int, Path], Tally]


def case_seeds(seed: int, count: int) -> list[int]:
    """Return a seed per attempt; the first is `seed` itself, so that a single attempt with a case's seed repeats it."""
    drawn = np.random.default_rng(seed).integers(0, 2**31, size=max(0, count - 1))
    return [seed, *(int(value) for value in drawn)][:count]


def campaigns() -> dict[str, Campaign]:
    """Return the campaigns of this folder by name: every module with `FULL` and `run`."""
    found = {}
    for entry in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if entry.name.startswith(("test_", "__")) or entry.name == "campaign":
            continue
        module = importlib.import_module(f"tests.torture.{entry.name}")
        if hasattr(module, "FULL"):
            about = (module.__doc__ or "").strip().splitlines()[0]
            found[entry.name] = Campaign(entry.name, module.FULL, about, module.run)
    return found
