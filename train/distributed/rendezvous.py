"""Rendezvous of the ranks: within a time limit, and with the names of those that are missing.

Torch on its own waits for a missing rank as long as for a collective, and does not say which rank it is. It also
accepts any process: one of an earlier attempt of the run, still looking for its rank 0 at the same address, is not a
rank of this attempt.
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
"""Environment variable of all ranks with an id unique to this attempt of the run; without it, a second process that
claims to be rank N is rejected by name."""
POLL_S = 0.1
LATE_S = 5.0
"""How much longer a rank waits for a listener that never answers, which torch would wait for without limit."""
AGAIN = "check how that process ended (its log, its node), then run the same command again"


class NotMet(RuntimeError):
    """Not all ranks joined within the time limit."""

    exit_code = FAILED


class PortTaken(NotMet):
    """Rank 0 cannot listen on the rendezvous port, because another process does."""

    exit_code = PORT_TAKEN


@contextmanager
def rendezvous(rank: int, size: int, limit_s: float, leave: Callable[[int], Any]) -> Iterator[None]:
    """Wait for all ranks, then connect them inside the block; both within `limit_s` seconds.

    The ranks meet in a store at MASTER_ADDR and MASTER_PORT, which torch's process group then uses as well. Raises
    NotMet naming the missing ranks. Connecting cannot be interrupted: when it takes too long, because a rank was lost
    meanwhile or something else listens there, this rank logs that and calls `leave` with code 1.
    """
    if size == 1:
        yield
        return
    deadline = time.monotonic() + limit_s
    silent = (
        f"rank {rank}: no answer from {_address()} within {limit_s:g} s: check that rank 0 of this run listens there, "
        "then run the same command again"
    )
    with _at_most(limit_s + LATE_S, silent, leave):
        store = _gather(rank, size, limit_s, deadline)
    lost = f"rank {rank}: all {size} ranks joined, but were not connected within {limit_s:g} s: one was lost meanwhile"
    try:
        with _at_most(max(0.0, deadline - time.monotonic()), f"{lost}; {AGAIN}", leave):
            yield
    finally:
        del store  # rank 0's store, which torch's own shares, has to exist until here


@contextmanager
def _at_most(seconds: float, message: str, leave: Callable[[int], Any]) -> Iterator[None]:
    """Log `message` and exit with code 1 when the block takes longer: torch's own calls cannot be interrupted."""

    def late() -> None:
        log.error("%s", message)
        leave(FAILED)

    timer = threading.Timer(seconds, late)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _address() -> str:
    return f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"


def _gather(rank: int, size: int, limit_s: float, deadline: float) -> Any:
    """Return the store in which all ranks have registered."""
    address = _address()
    by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun's agent holds the store
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
                f"rank 0 cannot listen at {address}: {_holder(int(os.environ['MASTER_PORT']))}. End it, or start the "
                "run on another port"
            ) from error
        if rank == 0 and not by_agent:
            raise NotMet(f"rank 0 cannot listen at {address} ({error}): run the same command again") from error
        raise NotMet(f"rank {rank}: {keeper} was not found at {address} within {limit_s:g} s: {AGAIN}") from error
    here, count = f"pdpc/{_attempt()}/here", f"pdpc/{_attempt()}/count"
    me = f"process {os.getpid()} on {socket.gethostname()}"
    try:
        there = store.compare_set(f"{here}/{rank}", "", me).decode()
        if there != me:
            raise NotMet(
                f"{me} is rank {rank}, and so is {there}, which joined at {address} first: end the processes left over "
                "from an earlier attempt, then run the same command again"
            )
        store.add(count, 1)
        while store.add(count, 0) < size:
            if time.monotonic() > deadline:
                missing = [str(other) for other in range(size) if not store.check([f"{here}/{other}"])]
                raise NotMet(
                    f"rank {rank}: of {size} ranks, {', '.join(missing) or 'none'} did not join within {limit_s:g} s "
                    f"({address}): {AGAIN}"
                )
            time.sleep(POLL_S)
    except dist.DistError as error:
        raise NotMet(f"rank {rank}: {keeper} was lost during rendezvous at {address}: {AGAIN}") from error
    return store


def _attempt() -> str:
    """Return an id that only the ranks of this attempt share; torchrun counts its restarts."""
    return ".".join(os.environ.get(name, "") for name in (LIFE, "TORCHELASTIC_RESTART_COUNT"))


def _holder(port: int) -> str:
    """Return which process holds a port of this machine, as far as this user may see."""
    try:
        held = [one.pid for one in psutil.net_connections("tcp") if one.laddr and one.laddr.port == port]
        words = [f"process {pid} holds it ({_command(pid)})" for pid in held if pid]
    except psutil.Error:
        words = []
    return words[0] if words else "another process holds that port"


def _command(pid: int) -> str:
    """Return the command line of a process, in at most 120 characters."""
    return " ".join(" ".join(psutil.Process(pid).cmdline()).split())[:120]
