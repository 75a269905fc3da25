"""Foreign code, foreign names and foreign processes next to a run: nothing of them runs, or counts for the run.

A case is one variant: something that a stranger leaves where a user starts a command, in a folder that the command is
given, or at the port where ranks meet. Passed: the canary that its code would write is not there, and the command does
what it does without the stranger, or refuses with a message that names what it found, without a traceback.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from tests.torture.campaign import Tally
from tests.torture.forks import served
from tests.torture.strangers.files import FILES
from tests.torture.strangers.here import HERE
from tests.torture.strangers.ranks import RANKS
from tests.torture.strangers.tasks import TASKS
from tests.torture.strangers.variant import Ground, Variant

VARIANTS: dict[str, Variant] = {**HERE, **TASKS, **RANKS, **FILES}
"""Every variant by name: to add one, add a function to one of these tables."""
FULL = len(VARIANTS)
STRIDE = 11
QUICK = ("a folder full of them", "options as hosts", "templates", "code of a run's tasks", "a seat", *FILES)
"""Names for a small dose: one of each kind, the first takes eight seconds, the others one or two."""


def run(count: int, seed: int, work: Path) -> Tally:
    """Try `count` variants; FULL of them are one round."""
    names = list(VARIANTS)
    assert math.gcd(len(names), STRIDE) == 1, "every variant has its turn"
    return run_cases([names[case * STRIDE % len(names)] for case in range(seed, seed + count)], seed, work)


def run_cases(names: list[str], seed: int, work: Path) -> Tally:
    """Try variants by name."""
    tally = Tally("strangers", seed=seed)
    with served() as forks:
        for number, name in enumerate(names):
            folder = work / "case"
            ground = Ground(folder, forks)
            try:
                problem = VARIANTS[name](ground) or ("code was run" if ground.canary.exists() else None)
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            tally.add(seed + number, problem and f"{name}: {problem}")
            shutil.rmtree(folder)
    tally.notes.append(
        f"{len(VARIANTS)} variants: {len(HERE)} of the current folder, {len(TASKS)} of tasks and runs, "
        f"{len(RANKS)} of ranks, {len(FILES)} of files"
    )
    return tally
