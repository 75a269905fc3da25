"""How the ranks meet: within a time limit, and with the names of those that did not come.

Torch alone waits for a missing rank as long as for a collective, and does not say which one it is. It also takes
whoever comes: a process of an earlier life of the run, which is still looking for its rank 0 at the same address, is
not one of this life's ranks.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import psutil
import torch.distributed as dist

from train.distributed.exit_codes import FAILED, PORT_TAKEN

log = logging.getLogger(__name__)

LIFE = "PDPC_LIFE"
"""Environment variable of all ranks with what no other life of any run has; where it is not set, a second process that
says it is rank N is refused by name."""
POLL_S = 0.1
LATE_S = 5.0
"""How much longer a rank waits for a listener that never answers, for whom torch has no time limit."""
AGAIN = "see how that process ended (its log, its node), then run the same command again"


class NotMet(RuntimeError):
    """Not all ranks came within the time limit."""

    exit_code = FAILED


class PortTaken(NotMet):
    """Rank 0 cannot listen where the ranks were to meet, for another process does."""

    exit_code = PORT_TAKEN


@contextmanager
def rendezvous(rank: int, size: int, limit_s: float, leave: Callable[[int], Any]) -> Iterator[None]:
    """Wait until all ranks are here, and let them be connected inside; both within `limit_s` seconds.

    The ranks meet in a store at MASTER_ADDR and MASTER_PORT, which torch's process group then uses as well. Raises
    NotMet naming the ranks that did not come. Connecting cannot be broken off: when it takes too long, for a rank was
    lost meanwhile or something else listens there, this rank says so and calls `leave` with code 1.
    """
    if size == 1:
        yield
        return
    deadline = time.monotonic() + limit_s
    foreign = (
        f"rank {rank}: what listens at {_place()} has not answered within {limit_s:g} s: is it rank 0 of this run?"
    )
    with _at_most(limit_s + LATE_S, f"{foreign} {AGAIN}", leave):
        store = _gather(rank, size, limit_s, deadline)
    lost = f"rank {rank}: all {size} ranks came, but were not connected within {limit_s:g} s: one was lost meanwhile"
    try:
        with _at_most(max(0.0, deadline - time.monotonic()), f"{lost}; {AGAIN}", leave):
            yield
    finally:
        del store  # rank 0's, which torch's own shares, had to live until here


@contextmanager
def _at_most(seconds: float, told: str, leave: Callable[[int], Any]) -> Iterator[None]:
    """Leave with code 1 and a word when what is inside takes longer: torch's own calls cannot be broken off."""

    def late() -> None:
        log.error("%s", told)
        leave(FAILED)

    timer = threading.Timer(seconds, late)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _place() -> str:
    return f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"


def _gather(rank: int, size: int, limit_s: float, deadline: float) -> Any:
    """Return the store in which all ranks have said that they are here."""
    place = _place()
    by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # under torchrun its agent keeps the store
    keeper = "torchrun's agent" if by_agent else "rank 0"
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            *(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), size),
            is_master=rank == 0 and not by_agent,
            timeout=timedelta(seconds=limit_s),
            wait_for_workers=False,
            multi_tenant=not by_agent,
        )
    except dist.DistError as error:
        if "EADDRINUSE" in str(error):
            raise PortTaken(
                f"rank 0 cannot listen at {place}: {_holder(int(os.environ['MASTER_PORT']))}. End it, or start the run "
                "with another port"
            ) from error
        if rank == 0 and not by_agent:
            raise NotMet(f"rank 0 cannot listen at {place} ({error}): run the same command again") from error
        raise NotMet(f"rank {rank}: {keeper} was not found at {place} within {limit_s:g} s: {AGAIN}") from error
    here, count = f"pdpc/{_life()}/here", f"pdpc/{_life()}/count"
    me = f"process {os.getpid()} on {socket.gethostname()}"
    try:
        there = store.compare_set(f"{here}/{rank}", "", me).decode()
        if there != me:
            raise NotMet(
                f"{me} is rank {rank}, and so is {there}, which was at {place} before it: end what is left of an "
                "earlier life, then run the same command again"
            )
        store.add(count, 1)
        while store.add(count, 0) < size:
            if time.monotonic() > deadline:
                missing = [str(other) for other in range(size) if not store.check([f"{here}/{other}"])]
                raise NotMet(
                    f"rank {rank}: of {size} ranks, {', '.join(missing) or 'none'} did not come within {limit_s:g} s "
                    f"({place}): {AGAIN}"
                )
            time.sleep(POLL_S)
    except dist.DistError as error:
        raise NotMet(f"rank {rank}: {keeper} was lost while the ranks met at {place}: {AGAIN}") from error
    return store


def _life() -> str:
    """Return what the ranks of this life have in common and those of another do not; torchrun counts its restarts."""
    return ".".join(os.environ.get(name, "") for name in (LIFE, "TORCHELASTIC_RESTART_COUNT"))


def _holder(port: int) -> str:
    """Tell which process has a port of this machine, as far as this user may know."""
    try:
        held = [one.pid for one in psutil.net_connections("tcp") if one.laddr and one.laddr.port == port]
        words = [f"process {pid} has it ({_command(pid)})" for pid in held if pid]
    except psutil.Error:
        words = []
    return words[0] if words else "another process has that port"


def _command(pid: int) -> str:
    """Return how a process was started, on one line and not too long."""
    return " ".join(" ".join(psutil.Process(pid).cmdline()).split())[:120]
