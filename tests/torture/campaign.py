"""What every campaign answers with, and how a case is told by its seed.

A campaign is a module of this folder with `FULL: int`, the attempts that it is meant for, and
`run(count: int, seed: int, work: Path) -> Tally`. It draws everything from `case_seeds(seed, count)`, one seed an
attempt, so that `run(1, seed of the case, work)` is that attempt again. It leaves no process; `work` is an empty folder
of its own, removed afterwards.
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
"""Most failures that a tally tells in words."""
LINE_EVERY_S = 60.0
"""How often a long campaign says how far it has come."""


@dataclass
class Tally:
    """What a campaign tried and what came of it."""

    name: str
    attempts: int = 0
    passed: int = 0
    seed: int = 0
    """The campaign's: `--seed`, or `--replay` for one case."""
    failures: list[str] = field(default_factory=list)
    """One line a failed attempt, with the seed that replays it."""
    notes: list[str] = field(default_factory=list)
    """What is worth a line although nothing failed."""
    _told_at: float = field(default_factory=time.monotonic, repr=False)

    def add(self, seed: int, problem: str | None) -> None:
        """Count an attempt; `problem` says what went wrong with it, None that nothing did. Says both now and then."""
        self.attempts += 1
        if problem is None:
            self.passed += 1
        elif len(self.failures) < KEPT:
            self.failures.append(f"seed {seed}: {problem}")
            self._tell(f"failed: {self.failures[-1]}")
        if time.monotonic() - self._told_at >= LINE_EVERY_S:
            self._tell(f"{self.passed:,} of {self.attempts:,} passed so far")

    def _tell(self, what: str) -> None:
        """Print a line beside the table, which comes at the end."""
        self._told_at = time.monotonic()
        print(f"{self.name}: {what}", file=sys.stderr, flush=True)

    @property
    def good(self) -> bool:
        """Did every attempt pass, and was there one?"""
        return 0 < self.attempts == self.passed


@dataclass(frozen=True)
class Campaign:
    """A campaign of this folder."""

    name: str
    full: int
    """Attempts that it is meant for."""
    about: str
    """First line of its docstring."""
    run: Callable[[int, int, Path], Tally]


def case_seeds(seed: int, count: int) -> list[int]:
    """Return a seed for each attempt; the first is `seed` itself, so that one attempt with it is that case again."""
    drawn = np.random.default_rng(seed).integers(0, 2**31, size=max(0, count - 1))
    return [seed, *(int(value) for value in drawn)][:count]


def campaigns() -> dict[str, Campaign]:
    """Return the campaigns of this folder by name: every module that has `FULL` and `run`."""
    found = {}
    for entry in pkgutil.iter_modules([str(Path(__file__).parent)]):
        if entry.name.startswith(("test_", "__")) or entry.name == "campaign":
            continue
        module = importlib.import_module(f"tests.torture.{entry.name}")
        if hasattr(module, "FULL"):
            about = (module.__doc__ or "").strip().splitlines()[0]
            found[entry.name] = Campaign(entry.name, module.FULL, about, module.run)
    return found
