"""Can the nodes of a run reach each other, at which names, and do they agree on the time?"""

from __future__ import annotations

import errno
import os
import re
import secrets
import shlex
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from launch.cluster.hosts import expand
from launch.cluster.machines import Hostfile
from launch.cluster.slurm import Slurm
from launch.doctor.check import ALLOCATED, Finding, Subject, failure, ok, warning
from launch.doctor.filesystem import SKEW_S
from launch.doctor.programs import Said, installed, said

CONNECT_S = 8
AT_ONCE = 32
"""Nodes that are asked at the same time."""
SSH = ("ssh", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={CONNECT_S}", "-o", "LogLevel=ERROR")
SAYS = (
    (
        r"Could not resolve hostname|Name or service not known|Temporary failure in name resolution",
        "its name is unknown here",
        "correct cluster.hosts, or add it to DNS or /etc/hosts",
    ),
    (
        r"Host key verification failed|REMOTE HOST IDENTIFICATION HAS CHANGED",
        "its host key is not the known one",
        "if the node was reinstalled: ssh-keygen -R {host}; else: ssh-keyscan {host} >> ~/.ssh/known_hosts",
    ),
    (
        r"Permission denied|Too many authentication failures|no mutual signature|invalid format|bad permissions",
        "it rejects this user's key",
        "ssh-copy-id {host}, or load the right key (ssh-add -l lists those in use)",
    ),
    (
        r"Connection timed out|No route to host|Network is unreachable|did not answer",
        "it does not answer",
        "is it up (ping {host}), and is port 22 open? leave it out of cluster.hosts until then",
    ),
    (r"Connection refused", "it has no ssh server", "start sshd on it, or use cluster.ssh=false"),
    (
        r"srun: error|Invalid node name|not in this allocation",
        "srun cannot start there",
        "check squeue and sinfo for it",
    ),
)
"""What ssh and srun say, what it means, and what to do."""


def hostname(subject: Subject) -> Iterator[Finding]:
    """Look up this machine's own name: ranks give each other that address."""
    if not subject.hosts:
        return
    name = socket.gethostname()
    try:
        address = socket.gethostbyname(name)
    except OSError as error:
        yield failure(f"{name} does not resolve on itself ({error.strerror})", "add it to DNS or /etc/hosts")
        return
    if address.startswith("127.") and len(subject.hosts) > 1:
        yield warning(
            f"{name} resolves to {address} on itself, which other nodes cannot reach",
            "remove that line from /etc/hosts, or name the interface of the cluster's network (GLOO_SOCKET_IFNAME and "
            "NCCL_SOCKET_IFNAME in cluster.environment)",
        )
    else:
        yield ok(f"{name} is {address}")


def port(subject: Subject) -> Iterator[Finding]:
    """Listen on the port at which the ranks meet; those of one machine meet in a file instead."""
    if isinstance(subject.cluster, Hostfile):
        number, key = subject.cluster.master_port, "cluster.master_port"
        if not subject.hosts or not is_first(subject):
            return
    elif os.environ.get("MASTER_PORT", "").isdigit():
        number, key = int(os.environ["MASTER_PORT"]), "MASTER_PORT"
    else:
        return
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", number))
            listener.listen()
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            why = f"is taken{_holder(number)}" if error.errno == errno.EADDRINUSE else "needs root"
            yield failure(f"port {number} {why}", f"end what listens there, or give another {key}")
            return
    yield ok(f"port {number} is free")


def programs(subject: Subject) -> Iterator[Finding]:
    """Look for the programs that `pdpc launch` needs for this cluster."""
    if isinstance(subject.cluster, Slurm):
        wanted, why = ["sbatch"], "submits the job: run this on a login node of the cluster"
    elif isinstance(subject.cluster, Hostfile) and subject.cluster.ssh:
        wanted, why = ["ssh", "pdsh"], "starts the other nodes: install it, or use cluster.ssh=false"
    else:
        return
    for name in wanted:
        yield ok("is installed", name) if installed(name) else failure("is not installed", f"{name} {why}", name)
    if not subject.hosts:
        yield warning(
            "no nodes to check: this is not a Slurm job, and cluster.hosts is empty",
            "run pdpc doctor in an allocation (salloc), or name the nodes with cluster=hostfile cluster.hosts=[...]",
            "nodes",
        )


def nodes(subject: Subject) -> Iterator[Finding]:
    """Ask every node for its time, and for a file that was just written to the folder of the output."""
    if not subject.hosts:
        return
    nonce = secrets.token_hex(16)
    path = subject.folder / f".pdpc_doctor-{secrets.token_hex(8)}"
    path.write_text(nonce, "ascii")
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for host, found in zip(
                subject.hosts, pool.map(lambda host: _asked(host, path, nonce), subject.hosts), strict=True
            ):
                yield from (Finding(one.level, one.text, one.remedy, host) for one in found)
    finally:
        path.unlink(missing_ok=True)


def reach(host: str, words: Sequence[str]) -> list[str]:
    """Return the command that runs these words on a node: with srun inside its Slurm allocation, else with ssh."""
    allocated = [name for key in ALLOCATED if key in os.environ for name in expand(os.environ[key])]
    if host in allocated and installed("srun"):
        return ["srun", "--nodes=1", "--ntasks=1", "--overlap", f"--nodelist={host}", "--chdir=/", *words]
    return [*SSH, host, shlex.join(words)]


def unreachable(host: str, answer: Said) -> Finding:
    """Return the finding for a node on which nothing could be started."""
    for pattern, what, remedy in SAYS:
        if re.search(pattern, answer.errors):
            return failure(f"{what} ({answer.last})", remedy.format(host=host), host)
    return failure(
        f"nothing can be started there ({answer.last}, exit code {answer.code})", f"try {SSH[0]} {host} true", host
    )


def _asked(host: str, path: Path, nonce: str) -> list[Finding]:
    """Return what is wrong with a node, or that it is ok."""
    script = f"date +%s.%N; cat {shlex.quote(str(path))} 2>/dev/null; true"
    before = time.time()
    answer = said(reach(host, ["sh", "-c", script]), 3 * CONNECT_S)
    after = time.time()
    lines = answer.out.split()
    if answer.code or not lines or not re.fullmatch(r"\d+\.\d+", lines[0]):
        return [unreachable(host, answer)]
    found = []
    there = float(lines[0])
    skew = max(before - there, there - after)
    if skew > SKEW_S:
        off = f"{skew:.0f} s {'behind' if there < before else 'ahead'}"
        found.append(failure(f"its clock is {off}", "start NTP on it (chronyc tracking, timedatectl)"))
    if nonce not in lines[1:]:
        found.append(
            failure(
                f"it does not see {path.parent}, the folder of the output here",
                "use an output on a file system that all nodes mount at the same path",
            )
        )
    return found or [ok("answers, its clock is right, and it sees the output folder")]


def is_first(subject: Subject) -> bool:
    """Return whether rank 0 runs on this machine: one can listen only at an address of one's own."""
    if not subject.hosts:
        return True
    host = subject.hosts[0]
    if host.partition(".")[0] == socket.gethostname().partition(".")[0]:
        return True
    try:
        with socket.socket() as trial:
            trial.bind((host, 0))
        return True
    except OSError:
        return False


def _holder(number: int) -> str:
    """Return which process listens on a port, worded for a message; empty if it is another user's."""
    import psutil

    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError):
        return ""
    for one in connections:
        if one.status == psutil.CONN_LISTEN and one.laddr.port == number and one.pid:
            with psutil.Process(one.pid).oneshot():
                return f" by {psutil.Process(one.pid).name()} (pid {one.pid})"
    return ""
