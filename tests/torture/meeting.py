"""Failures during the rendezvous: a taken port, a rank that dies, a leftover rank of an earlier launch (T29).

Passed: the launch ends by itself in time and with the right exit code, or continues if it can; no process is left, and
nothing in /dev/shm or the temporary folder; the next launch ends like an undisturbed one. A process without the secret
of the launch, which takes the place of a rank, has no effect.
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tests.ports import free_port
from tests.torture.campaign import Tally, case_seeds
from tests.torture.forks import Ranks
from tests.torture.forks import train as rank_of
from tests.torture.network import wait_for
from tests.torture.runs import PATIENCE_S, Ground, difference, forget, prepared
from train.distributed.exit_codes import FAILED, PORT_TAKEN
from train.distributed.secret import VARIABLE, write_secret

FULL = 50
RANKS = 2
MEET_S = 6.0
"""Timeout of a case's rendezvous."""
MARGIN_S = 40.0
"""Further time until a launch must have ended, even on a busy machine."""
SHARED = Path("/dev/shm")
WHEN = ("before", "while", "after")
"""When a rank dies: before it looks for the others, during the rendezvous, or after it, before they are connected."""


def run(count: int, seed: int, work: Path) -> Tally:
    """Disturb `count` rendezvous."""
    tally, struck = Tally("meeting", seed=seed), dict[str, int]()
    with prepared(work, RANKS) as ground:
        for case in case_seeds(seed, count):
            name, problem = one_case(ground, work / "case", case)
            tally.add(case, problem and f"{name}: {problem}")
            struck[name] = struck.get(name, 0) + 1
            forget(work / "case")
    tally.notes.append(", ".join(f"{number} x {name}" for name, number in sorted(struck.items())))
    return tally


def one_case(ground: Ground, folder: Path, seed: int) -> tuple[str, str | None]:
    """Disturb one rendezvous, then let the run finish; return the fault and what went wrong."""
    draw = np.random.default_rng(seed)
    name = str(draw.choice(list(CASES)))
    (folder / "tmp").mkdir(parents=True)
    before = _leftovers(folder)
    problem = CASES[name](ground, folder, draw)
    if problem is None and not wait_for(lambda: _leftovers(folder) <= before, 5.0):
        problem = f"left behind: {sorted(_leftovers(folder) - before)}"
    problem = problem or ground.material.finish(ground.forks, folder / "run", RANKS)
    return name, problem or difference(folder / "run", ground.material, ground.whole)


def port_taken(ground: Ground, folder: Path, draw: np.random.Generator) -> str | None:
    """Listen on the port of the rendezvous: rank 0 reports which process does."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ranks = start(ground, folder, int(draw.integers(2, 5)), taken.getsockname()[1])
        codes = ended(ranks)
    if codes != [PORT_TAKEN, *[FAILED] * (len(codes) - 1)]:
        return f"ended with {codes}: {ranks.told()[-600:]}"
    holder = f"process {os.getpid()} holds it"
    return None if holder in ranks.told() else f"no rank reported {holder!r}: {ranks.told()[-600:]}"


def rank_lost(ground: Ground, folder: Path, draw: np.random.Generator) -> str | None:
    """Kill a rank before, during or after the rendezvous: the others end by themselves."""
    size = int(draw.integers(2, 5))
    lost, when = int(draw.choice([0, draw.integers(0, size)])), str(draw.choice(WHEN))
    ranks = start(ground, folder, size, free_port(), lost=lost, when=when)
    codes = ended(ranks)
    if codes != [-signal.SIGKILL if rank == lost else FAILED for rank in range(size)]:
        return f"rank {lost} of {size} killed {when}: ended with {codes}: {ranks.told()[-600:]}"
    return None


def stale_rank(ground: Ground, folder: Path, draw: np.random.Generator) -> str | None:
    """Start rank 1 of an earlier launch on the port of this one: it is refused and named, and ends."""
    port, secrets = free_port(), [folder / "earlier", folder / "this"]
    for path in secrets:
        write_secret(path)
    earlier, this = ({VARIABLE: str(path)} for path in secrets)
    stale = start(ground, folder, 1, port, RANK="1", LOCAL_RANK="1", WORLD_SIZE=str(RANKS), **earlier)
    time.sleep(float(draw.uniform(0.0, 1.0)))
    ranks = start(ground, folder, RANKS, port, **this)
    codes, others = ranks.wait(PATIENCE_S), ended(stale)
    ranks.kill()
    if codes != [0] * RANKS or others != [FAILED]:
        return f"ended with {codes}, the rank of the earlier launch with {others}: {ranks.told()[-600:]}"
    return None


def stranger(ground: Ground, folder: Path, draw: np.random.Generator) -> str | None:
    """Take a rank's place in the store as plain torch would, with no secret: the run does not notice."""
    port, secret = free_port(), folder / "secret"
    write_secret(secret)
    ranks = start(ground, folder, RANKS, port, **{VARIABLE: str(secret)})
    other = start(ground, folder, 1, port, "stands_in", RANK="1", WORLD_SIZE=str(RANKS))
    codes = ranks.wait(PATIENCE_S)
    ranks.kill()
    other.kill()
    other.wait(5)
    return None if codes == [0] * RANKS else f"ended with {codes}: {ranks.told()[-600:]}"


def stands_in(**_: object) -> int:
    """Join as a rank with torch alone."""
    import torch.distributed as dist

    dist.init_process_group("gloo", timeout=timedelta(seconds=MEET_S))
    return 0


def two_of_a_rank(ground: Ground, folder: Path, draw: np.random.Generator) -> str | None:
    """The same, but nothing distinguishes the launches: the second process that claims to be rank 1 is refused."""
    port = free_port()
    stale = start(ground, folder, 1, port, RANK="1", LOCAL_RANK="1", WORLD_SIZE=str(RANKS))
    time.sleep(float(draw.uniform(0.0, 1.0)))
    ranks = start(ground, folder, RANKS, port)
    refused = wait_for(lambda: FAILED in (*stale.wait(0), *ranks.wait(0)), PATIENCE_S)
    if FAILED in ranks.wait(0):
        ranks.kill()  # as the launcher does if a rank fails
    ranks.wait(PATIENCE_S)
    ranks.kill()
    if not refused or "is rank 1, and so is process" not in ranks.told() or None in ended(stale):
        return f"ended with {ranks.wait(0)}, the other rank 1 with {stale.wait(0)}: {ranks.told()[-600:]}"
    return None


CASES: dict[str, Callable[[Ground, Path, np.random.Generator], str | None]] = {
    "port taken": port_taken,
    "rank lost": rank_lost,
    "stale rank": stale_rank,
    "two of a rank": two_of_a_rank,
    "stranger": stranger,
}


def start(
    ground: Ground,
    folder: Path,
    size: int,
    port: int,
    target: str = "rank",
    lost: int = -1,
    when: str = "",
    **environment: str,
) -> Ranks:
    """Start a launch with its rendezvous on a port; rank `lost` dies."""
    words = [*ground.material.words, *(["micro_batch_size=4"] if size == 3 else [])]
    arguments = {"words": words, "output": str(folder / "run"), "lost": lost, "when": when}
    environment = {"MASTER_PORT": str(port), "TMPDIR": str(folder / "tmp"), **environment}
    return ground.forks.start(f"tests.torture.meeting:{target}", arguments, size, folder / "log", environment)


def rank(words: list[str], output: str, lost: int, when: str) -> int:
    """Run a rank with a rendezvous timeout of MEET_S, or the one that dies."""
    from train import run as entry
    from train.engine import communication

    tempfile.tempdir = os.environ["TMPDIR"]
    entry.start = partial(communication.start, meet_s=MEET_S)
    communication.rendezvous = partial(_disturbed, communication.rendezvous, int(os.environ["RANK"]) == lost, when)
    return rank_of(words, output)


@contextmanager
def _disturbed(rendezvous: Callable[..., Any], dies: bool, when: str, *asked: object) -> Iterator[Any]:
    """Join the rendezvous and die before, during or after it; if a rank dies during it, the others join late."""

    def die() -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if dies and when == "before":
        die()
    if dies and when == "while":
        threading.Timer(0.7, die).start()
    if not dies and when == "while":
        time.sleep(1.5)
    with rendezvous(*asked) as store:
        if dies and when == "after":
            die()
        yield store


def ended(ranks: Ranks) -> list[int | None]:
    """Return the exit codes of ranks that end by themselves; None for those that did not in time, which are killed."""
    codes = ranks.wait(MEET_S + MARGIN_S)
    ranks.kill()
    ranks.wait(5)
    return codes


def _leftovers(folder: Path) -> set[str]:
    """Return the files in shared memory and in the case's temporary folder, except torch's cache of compiled code."""
    shared = {path.name for path in SHARED.iterdir()} if SHARED.is_dir() else set()
    return {path.name for path in (folder / "tmp").iterdir() if not path.name.startswith("torchinductor_")} | shared
