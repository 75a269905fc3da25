"""Rendezvous of the ranks: within a time limit, and with the names of those that are missing.

Torch on its own waits for a missing rank as long as for a collective, and does not say which rank it is. Its store also
accepts any process that can connect: one of an earlier attempt of the run, or of another user. So ranks of one machine
meet in a file that only this user can open, if their launcher named one. Others meet in a TCP store, which listens on
loopback if all ranks are here: each proves that it knows the attempt's secret, and keys have a prefix derived from it.
"""

from __future__ import annotations

import errno
import hmac
import ipaddress
import logging
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch.distributed as dist

from curriculum.work.printable import printable
from train.distributed.exit_codes import FAILED, PORT_TAKEN
from train.distributed.secret import proof, read_secret
from train.distributed.strangers import strangers

log = logging.getLogger(__name__)

STORE = "PDPC_STORE"
"""Environment variable with the file in which the ranks of one machine meet; its folder is new in every attempt."""
VISITOR = "pdpc/visitor"
"""Key of the number of processes that joined, and prefix of the keys with what each of them says that it is."""
MOST_VISITORS = 100_000
BACKLOG = 4096
"""Connections that may wait to be accepted."""
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
def rendezvous(rank: int, size: int, limit_s: float, leave: Callable[[int], Any]) -> Iterator[Any]:
    """Wait for all ranks, then connect them inside the block; both within `limit_s` seconds.

    Yields the store for torch's process group. Raises NotMet naming the missing ranks. Connecting cannot be
    interrupted: when it takes too long, because a rank was lost meanwhile or something else listens there, this rank
    logs that and calls `leave` with code 1.
    """
    if size == 1:
        yield dist.HashStore()
        return
    deadline = time.monotonic() + limit_s
    silent = (
        f"rank {rank}: no answer from {_address()} within {limit_s:g} s: check that rank 0 of this run listens there, "
        "then run the same command again"
    )
    with _at_most(limit_s + LATE_S, silent, leave):
        store = _gather(rank, size, limit_s, deadline)
    lost = f"rank {rank}: all {size} ranks joined, but were not connected within {limit_s:g} s: one was lost meanwhile"
    with _at_most(max(0.0, deadline - time.monotonic()), f"{lost}; {AGAIN}", leave):
        yield store


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
    return os.environ.get(STORE) or f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"


def _gather(rank: int, size: int, limit_s: float, deadline: float) -> Any:
    """Return the store in which all ranks have registered."""
    address = _address()
    try:
        secret = read_secret()
    except ValueError as error:
        raise NotMet(f"rank {rank}: {error}") from error
    opened = _file_store(limit_s) if os.environ.get(STORE) else _tcp_store(rank, size, limit_s, address)
    if secret is None and STORE not in os.environ and rank == 0:
        log.info(
            "the rendezvous at %s has no secret: every process that can connect there may join as a rank; pdpc train "
            "and pdpc launch use one",
            address,
        )
    store = dist.PrefixStore(f"pdpc/{_attempt(secret)}", opened)
    me = f"process {os.getpid()} on {socket.gethostname()}"
    try:
        _sign(opened, secret, rank, me)
        there = store.compare_set(f"here/{rank}", "", me).decode()
        if there != me:
            raise NotMet(
                f"{me} is rank {rank}, and so is {there}, which joined at {address} first: end the processes left over "
                "from an earlier attempt, then run the same command again"
            )
        store.add("count", 1)
        while store.add("count", 0) < size:
            if time.monotonic() > deadline:
                missing = [str(other) for other in range(size) if not store.check([f"here/{other}"])]
                raise NotMet(
                    f"rank {rank}: of {size} ranks, {', '.join(missing) or 'none'} did not join within {limit_s:g} s "
                    f"({address}): {AGAIN}"
                )
            time.sleep(POLL_S)
    except dist.DistError as error:
        raise NotMet(f"rank {rank}: rank 0 was lost during rendezvous at {address}: {AGAIN}") from error
    finally:
        if rank == 0:
            _name_strangers(opened, secret, address)
    if rank == 0 and STORE not in os.environ and (others := strangers(int(os.environ["MASTER_PORT"]))):
        raise NotMet(
            f"{', '.join(others)} is connected to the rendezvous of this run at {address}, and could replace what its "
            "ranks tell each other: ask who that is, then start the run again, on another port or with pdpc train"
        )
    return store


def _file_store(limit_s: float) -> Any:
    """Return the store of ranks that are all on this machine: a file in a folder that only this user can enter."""
    path = Path(os.environ[STORE])
    try:
        found = path.parent.stat()
    except OSError as error:
        raise NotMet(f"{STORE}={path} cannot be opened ({error.strerror}): run the same command again") from error
    if found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise NotMet(
            f"{STORE}={path} is in a folder that others can enter (owner {found.st_uid}, mode "
            f"{stat.S_IMODE(found.st_mode):o}): let pdpc start the ranks, or unset {STORE}"
        )
    store = dist.FileStore(str(path), -1)
    store.set_timeout(timedelta(seconds=limit_s))
    return store


def _tcp_store(rank: int, size: int, limit_s: float, address: str) -> Any:
    """Return the store at MASTER_ADDR and MASTER_PORT, which rank 0 holds."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun's agent holds the store
    holds = rank == 0 and not by_agent
    keeper = "torchrun's agent" if by_agent else "rank 0"
    try:
        return dist.TCPStore(  # type: ignore[attr-defined]
            *(host, port, size),
            is_master=holds,
            timeout=timedelta(seconds=limit_s),
            wait_for_workers=False,
            master_listen_fd=_listener(host, port) if holds else None,
        )
    except (dist.DistError, OSError) as error:
        if "EADDRINUSE" in str(error) or getattr(error, "errno", None) == errno.EADDRINUSE:
            raise PortTaken(
                f"rank 0 cannot listen at {address}: {_holder(port)}. End it, or start the run on another port"
            ) from error
        if holds:
            raise NotMet(f"rank 0 cannot listen at {address} ({error}): run the same command again") from error
        raise NotMet(f"rank {rank}: {keeper} was not found at {address} within {limit_s:g} s: {AGAIN}") from error


def meets_here() -> bool:
    """Return whether the ranks meet in a file, or at a loopback address: then all of them are on this machine."""
    host = os.environ.get("MASTER_ADDR", "")
    if os.environ.get(STORE) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, which may mean loopback only on the machine that has it
        return False


def _listener(host: str, port: int) -> int | None:
    """Return a socket that listens on loopback if the ranks meet there, else None: torch listens on every address."""
    if not meets_here():
        return None
    family, _, _, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener.detach()


def _attempt(secret: bytes | None) -> str:
    """Return an id that only the ranks of this attempt share; torchrun counts its restarts."""
    restart = os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
    return f"open.{restart}" if secret is None else proof(secret, "attempt", restart)


def _sign(store: Any, secret: bytes | None, rank: int, me: str) -> None:
    """Write who joins as which rank where every process can read it, with a proof that it knows the secret."""
    mark = proof(secret, str(rank), me) if secret is not None else ""
    store.set(f"{VISITOR}/{store.add(VISITOR, 1)}", f"{mark} {rank} {me}")


def _name_strangers(store: Any, secret: bytes | None, address: str) -> None:
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
                    *(printable(who) or "something", printable(rank), address),
                )


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
