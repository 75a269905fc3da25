"""Rendezvous of the ranks: within a time limit, and with the names of those that are missing.

Torch on its own waits for a missing rank as long as for a collective, and does not say which rank it is. Its store also
accepts any process that can connect: one of an earlier attempt of the run, or of another user. So ranks of one machine
meet in a file that only this user can open, if their launcher named one. Others meet in a TCP store, which listens on
loopback if all ranks are here: each proves that it knows the attempt's secret, and keys have a prefix derived from it.
"""

from __future__ import annotations

import hmac
import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch.distributed as dist

from curriculum.work.printable import printable
from train.distributed.give_up import at_most
from train.distributed.heartbeat import STORE
from train.distributed.rejection import check_rejected
from train.distributed.secret import proof, read_secret
from train.distributed.store import AGAIN, NotMet, address, of_attempt, open_store
from train.distributed.strangers import strangers

log = logging.getLogger(__name__)

VISITOR = "pdpc/visitor"
"""Key of the number of processes that joined, and prefix of the keys with what each of them says that it is."""
MOST_VISITORS = 100_000
POLL_S = 0.1
LATE_S = 5.0
"""How much longer a rank waits for a listener that never answers, which torch would wait for without limit."""


@contextmanager
def rendezvous(rank: int, size: int, limit_s: float, leave: Callable[[int], Any]) -> Iterator[Any]:
    """Wait for all ranks, then connect them inside the block; both within `limit_s` seconds.

    Yields the store for torch's process group. Raises NotMet naming the missing ranks. Connecting cannot be
    interrupted: when it takes too long, because a rank was lost meanwhile or something else listens there, this rank
    logs that and calls `leave` with code 1.
    """
    if size == 1:
        yield dist.HashStore()  # type: ignore[attr-defined]
        return
    deadline = time.monotonic() + limit_s
    silent = (
        f"rank {rank}: no answer from {address()} within {limit_s:g} s: check that rank 0 of this run listens there, "
        "then run the same command again"
    )
    with at_most(limit_s + LATE_S, silent, leave):
        store = _gather(rank, size, limit_s, deadline)
    lost = f"rank {rank}: all {size} ranks joined, but were not connected within {limit_s:g} s: one was lost meanwhile"
    with at_most(max(0.0, deadline - time.monotonic()), f"{lost}; {AGAIN}", leave):
        yield store


def _gather(rank: int, size: int, limit_s: float, deadline: float) -> Any:
    """Return the store in which all ranks have registered."""
    place = address()
    try:
        secret = read_secret()
    except ValueError as error:
        raise NotMet(f"rank {rank}: {error}") from error
    opened = open_store(rank, size, limit_s)
    if secret is None and STORE not in os.environ and rank == 0:
        log.info(
            "the rendezvous at %s has no secret: every process that can connect there may join as a rank; pdpc train "
            "and pdpc launch use one",
            place,
        )
    store = of_attempt(opened)
    me = f"process {os.getpid()} on {socket.gethostname()}"
    try:
        _sign(opened, secret, rank, me)
        there = store.compare_set(f"here/{rank}", "", me).decode()
        if there != me:
            raise NotMet(
                f"{me} is rank {rank}, and so is {there}, which joined at {place} first: end the processes left over "
                "from an earlier attempt, then run the same command again"
            )
        store.add("count", 1)
        while store.add("count", 0) < size:
            check_rejected(store, rank, size)
            if time.monotonic() > deadline:
                missing = [str(other) for other in range(size) if not store.check([f"here/{other}"])]
                raise NotMet(
                    f"rank {rank}: of {size} ranks, {', '.join(missing) or 'none'} did not join within {limit_s:g} s "
                    f"({place}): {AGAIN}"
                )
            time.sleep(POLL_S)
    except dist.DistError as error:
        raise NotMet(f"rank {rank}: rank 0 was lost during rendezvous at {place}: {AGAIN}") from error
    finally:
        if rank == 0:
            _name_strangers(opened, secret, place)
    if rank == 0 and STORE not in os.environ and (others := strangers(int(os.environ["MASTER_PORT"]))):
        raise NotMet(
            f"{', '.join(others)} is connected to the rendezvous of this run at {place}, and could replace what its "
            "ranks tell each other: ask who that is, then start the run again, on another port or with pdpc train"
        )
    return store


def _sign(store: Any, secret: bytes | None, rank: int, me: str) -> None:
    """Write who joins as which rank where every process can read it, with a proof that it knows the secret."""
    mark = proof(secret, str(rank), me) if secret is not None else ""
    store.set(f"{VISITOR}/{store.add(VISITOR, 1)}", f"{mark} {rank} {me}")


def _name_strangers(store: Any, secret: bytes | None, place: str) -> None:
    """Log the processes that tried to join without the secret of this attempt. They have no effect on it."""
    if secret is None:
        return
    with suppress(dist.DistError, ValueError):
        for number in range(1, min(store.add(VISITOR, 0), MOST_VISITORS) + 1):
            key = f"{VISITOR}/{number}"
            if not store.check([key]):
                continue
            mark, rank, who = (*store.get(key).decode("utf-8", "replace").split(" ", 2), "", "")[:3]
            if not hmac.compare_digest(mark.encode(), proof(secret, rank, who).encode()):
                log.warning(
                    "%s tried to join as rank %s at %s without the secret of this attempt: it was refused",
                    *(printable(who) or "something", printable(rank), place),
                )
