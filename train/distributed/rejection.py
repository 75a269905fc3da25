"""A rank that is rejected before it joins the others: it tells them why, so that none waits for it.

Ranks of one machine see the same files and are ended by their launcher. On several machines, one may lack the data, or
have other packages: without its word, the others would wait for it for the whole rendezvous.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from train.distributed.exit_codes import Refused

KEY, SEEN = "rejected", "rejected/seen"
"""Keys in the attempt's store: code, process and message of the first rank that was rejected; machines that know."""
TELL_S = 60.0
"""How long a rejected rank looks for the others, and rank 0, which holds the store, stays for them."""
POLL_S = 0.1


class RejectedElsewhere(Refused):
    """A rank on another machine was rejected; only rank 0 repeats its message."""


def several_machines() -> bool:
    """Return whether this rank has others on other machines."""
    from train.distributed.heartbeat import STORE

    size = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", str(size))))
    return local < size and STORE not in os.environ


def tell(message: str, code: int, leave: Callable[[int], Any]) -> None:
    """Tell the ranks on other machines that this one was rejected, if it has not joined them yet; at most TELL_S.

    `leave` exits with a code if something else listens there and never answers.
    """
    if "RANK" not in os.environ or _joined():
        return
    with suppress(Exception):  # without the others, or a library to reach them, its own log has to do
        if not several_machines():
            return
        from train.distributed.give_up import at_most
        from train.distributed.store import of_attempt, open_store

        rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        with at_most(2 * TELL_S, f"rank {rank} could not tell the others why it exits", lambda _: leave(code)):
            store = of_attempt(open_store(rank, size, TELL_S))
            me = f"rank {rank} (process {os.getpid()} on {socket.gethostname()})"
            store.compare_set(KEY, "", json.dumps([code, me, message]))
            _stay(store, rank, size)


def check_rejected(store: Any, rank: int, size: int) -> None:
    """Raise RejectedElsewhere, with its message and code, if a rank on another machine was rejected."""
    if not store.check([KEY]):
        return
    code, who, message = json.loads(store.get(KEY))
    _stay(store, rank, size)
    raise RejectedElsewhere(f"{who} was rejected: {message}", int(code))


def _stay(store: Any, rank: int, size: int) -> None:
    """Count this machine as one that knows; rank 0, which holds the store, waits for the others."""
    if os.environ.get("LOCAL_RANK", "0") != "0":
        return
    store.add(SEEN, 1)
    machines = size // int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", str(size))))
    deadline = time.monotonic() + TELL_S
    while rank == 0 and store.add(SEEN, 0) < machines and time.monotonic() < deadline:
        time.sleep(POLL_S)
    time.sleep(POLL_S if rank == 0 else 0.0)  # for the answer to the last one


def _joined() -> bool:
    """Return whether this rank has joined the others: they then notice by themselves that it exits."""
    if "torch.distributed" not in sys.modules:
        return False
    return bool(sys.modules["torch.distributed"].is_initialized())
