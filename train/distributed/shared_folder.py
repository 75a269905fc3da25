"""A folder that all ranks write to: is it the same one on every machine?"""

from __future__ import annotations

import secrets
import socket
import time
from pathlib import Path

from curriculum.artifact.files import write_text
from train.distributed.exit_codes import Refused
from train.distributed.world import World

SEEN_WITHIN_S = 30.0
"""How long a network file system may take to show a new file on another machine."""
POLL_S = 0.1


def check_shared(key: str, folder: Path, world: World, within_s: float = SEEN_WITHIN_S) -> None:
    """Raise Refused, naming host and path, if a rank does not see the folder that rank 0 writes to; collective.

    Rank 0 writes a random number to a new file there, and every rank reads it. `key`: the setting with the folder.
    """
    if world.size == 1:
        return
    nonce = world.same(secrets.randbits(62))
    path = folder / f".nonce.tmp-{nonce:016x}"
    world.first_does(lambda: write_text(path, f"{nonce}\n"))
    try:
        world.together(_unseen(key, path, nonce, world.rank, within_s))
    finally:
        if world.first:
            path.unlink(missing_ok=True)


def _unseen(key: str, path: Path, nonce: int, rank: int, within_s: float) -> Refused | None:
    """Return the rejection of a folder in which the file does not appear in time; None if it does."""
    deadline = time.monotonic() + within_s
    while True:
        try:
            if path.read_text("utf-8") == f"{nonce}\n":
                return None
            found = "which holds something else"
        except OSError as error:
            found = str(error.strerror)
        if time.monotonic() >= deadline:
            return Refused(
                f"{key}={path.parent} on {socket.gethostname()} (rank {rank}) is not the folder that rank 0 writes to: "
                f"{path.name} did not appear there within {within_s:g} s ({found}): use a folder that all nodes share"
            )
        time.sleep(POLL_S)
