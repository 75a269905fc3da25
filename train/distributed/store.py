"""The store in which ranks meet: a private file for those of one machine, else a TCP store that rank 0 holds."""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import torch.distributed as dist

from train.distributed.exit_codes import FAILED, PORT_TAKEN
from train.distributed.heartbeat import STORE
from train.distributed.secret import proof, read_secret

BACKLOG = 4096
"""Connections that may wait to be accepted."""
AGAIN = "check how that process ended (its log, its node), then run the same command again"


class NotMet(RuntimeError):
    """Not all ranks joined within the time limit."""

    exit_code = FAILED


class PortTaken(NotMet):
    """Rank 0 cannot listen on the rendezvous port, because another process does."""

    exit_code = PORT_TAKEN


def address() -> str:
    """Return where the ranks meet: the file, or host and port."""
    return os.environ.get(STORE) or f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"


def open_store(rank: int, size: int, limit_s: float) -> Any:
    """Return the store, found within `limit_s` seconds. Raises NotMet."""
    return _file_store(limit_s) if os.environ.get(STORE) else _tcp_store(rank, size, limit_s)


def of_attempt(opened: Any) -> Any:
    """Return the part of a store with a prefix that only the ranks of this attempt know; torchrun counts its restarts.

    Raises ValueError if the secret of the attempt cannot be read.
    """
    secret, restart = read_secret(), os.environ.get("TORCHELASTIC_RESTART_COUNT", "")
    attempt = f"open.{restart}" if secret is None else proof(secret, "attempt", restart)
    return dist.PrefixStore(f"pdpc/{attempt}", opened)  # type: ignore[attr-defined]


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
    store = dist.FileStore(str(path), -1)  # type: ignore[attr-defined]
    store.set_timeout(timedelta(seconds=limit_s))
    return store


def _tcp_store(rank: int, size: int, limit_s: float) -> Any:
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
                f"rank 0 cannot listen at {address()}: {_holder(port)}. End it, or start the run on another port"
            ) from error
        if holds:
            raise NotMet(f"rank 0 cannot listen at {address()} ({error}): run the same command again") from error
        raise NotMet(f"rank {rank}: {keeper} was not found at {address()} within {limit_s:g} s: {AGAIN}") from error


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
