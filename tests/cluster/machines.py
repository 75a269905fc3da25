"""Machines for a cluster on this one: each has its own network, host name, processes, /etc/hosts and sshd.

They are namespaces, held by one process each: once that is gone, and it goes with this program, so is the machine with
all that ran on it. Files are shared, as on a cluster's file system.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NETWORK = "10.99.0"
ADDRESSES = {"login": f"{NETWORK}.1", "n1": f"{NETWORK}.11", "n2": f"{NETWORK}.12"}
DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of prctl(2)."""
SSHD = """\
Port 22
HostKey {work}/host_key
AuthorizedKeysFile {work}/key.pub
PermitRootLogin yes
StrictModes no
UsePAM yes
PrintMotd no
ClientAliveInterval 5
ClientAliveCountMax 3
"""
SSH = """\
Host *
    IdentityFile {work}/key
    StrictHostKeyChecking no
    UserKnownHostsFile /dev/null
    LogLevel ERROR
"""


@dataclass
class Machine:
    """One machine."""

    name: str
    work: Path
    holder: int
    """Process id of its first process."""
    daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def command(self, words: Sequence[str], environment: Mapping[str, str] | None = None) -> list[str]:
        """Return the command that runs `words` there, in the checkout."""
        assigned = [f"{key}={value}" for key, value in (environment or {}).items()]
        into = ["nsenter", "-t", str(self.holder), "-m", "-u", "-i", "-n", "-p", "--"]
        return [*into, "env", "-C", str(ROOT), *assigned, *words]

    def sh(self, script: str, check: bool = True) -> str:
        """Run a shell script there; return what it prints."""
        done = subprocess.run(self.command(["sh", "-c", script]), capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise RuntimeError(f"on {self.name}: {script}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def daemon(self, *words: str) -> None:
        """Start a program there that runs until the machine ends; its output goes to a file."""
        with open(self.work / f"{Path(words[0]).name}_{self.name}.log", "wb") as log:
            self.daemons.append(subprocess.Popen(self.command(words), stdout=log, stderr=log))

    def is_named(self, *addresses: str) -> None:
        """Give its own name these addresses in its /etc/hosts, and the others theirs."""
        others = [f"{address} {name}" for name, address in ADDRESSES.items() if name != self.name]
        own = [f"{address} {self.name}" for address in addresses or (ADDRESSES[self.name],)]
        (self.work / f"hosts_{self.name}").write_text("\n".join(["127.0.0.1 localhost", *own, *others, ""]))


@dataclass
class Cluster:
    """A login machine and two nodes on one bridge."""

    work: Path
    machines: dict[str, Machine] = field(default_factory=dict)

    @property
    def login(self) -> Machine:
        """The machine on which commands are typed."""
        return self.machines["login"]

    @property
    def nodes(self) -> list[Machine]:
        """The machines that compute."""
        return [machine for name, machine in self.machines.items() if name != "login"]

    def cut(self, name: str) -> None:
        """Unplug a node: its packets are lost, and it is told nothing."""
        self.login.sh(f"ip link set v_{name} nomaster")

    def mend(self, name: str) -> None:
        """Plug a node in again."""
        self.login.sh(f"ip link set v_{name} master br0")

    @contextmanager
    def without(self, name: str, folder: Path) -> Iterator[None]:
        """Hide a folder from one machine."""
        machine = self.machines[name]
        machine.sh(f"mount -t tmpfs none {shlex.quote(str(folder))}")
        try:
            yield
        finally:
            machine.sh(f"umount {shlex.quote(str(folder))}")


@contextmanager
def cluster(work: Path) -> Iterator[Cluster]:
    """Yield a running cluster, whose files are in `work`; end every process of it afterwards."""
    for name in ("key", "host_key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(work / name)], check=True)
    (work / "sshd_config").write_text(SSHD.format(work=work))
    (work / "ssh_config").write_text(SSH.format(work=work))
    made = Cluster(work)
    holders: list[subprocess.Popen[bytes]] = []
    try:
        for name in ADDRESSES:
            holders.append(_held())
            made.machines[name] = Machine(name, work, _first_process(holders[-1]))
            _furnish(made.machines[name])
        _connect(made)
        for machine in made.machines.values():
            machine.daemon("/usr/sbin/sshd", "-D", "-e", "-f", str(work / "sshd_config"))
        yield made
    finally:
        for holder in holders:  # each ends every process of its machine, which what started them here then reaps
            holder.kill()
        for process in [*holders, *(one for machine in made.machines.values() for one in machine.daemons)]:
            process.wait()


def _held() -> subprocess.Popen[bytes]:
    namespaces = ["--net", "--uts", "--mount", "--ipc", "--pid", "--fork", "--mount-proc", "--kill-child=SIGKILL"]
    reaper = "import signal, time\nsignal.signal(signal.SIGCHLD, signal.SIG_IGN)\nwhile True: time.sleep(3600)"
    libc = ctypes.CDLL(None)

    def die_with_parent() -> None:
        libc.prctl(DIE_WITH_PARENT, signal.SIGKILL)

    command = ["unshare", *namespaces, sys.executable, "-c", reaper]
    return subprocess.Popen(command, preexec_fn=die_with_parent, start_new_session=True)  # not reached by Ctrl-C


def _first_process(holder: subprocess.Popen[bytes]) -> int:
    deadline = time.monotonic() + 10
    children = Path(f"/proc/{holder.pid}/task/{holder.pid}/children")
    while time.monotonic() < deadline and holder.poll() is None:
        pids = children.read_text().split()
        if pids and os.readlink(f"/proc/{pids[0]}/ns/net") != os.readlink("/proc/self/ns/net"):
            time.sleep(0.2)  # until it has mounted its own /proc
            return int(pids[0])
        time.sleep(0.05)
    raise RuntimeError("unshare cannot create namespaces here: run this as root, outside a restricted container")


def _furnish(machine: Machine) -> None:
    """Give a machine its name, files and folders of its own, and a loopback interface."""
    machine.is_named()
    work, name = shlex.quote(str(machine.work)), machine.name
    machine.sh(
        f"hostname {name} && ip link set lo up"
        f" && mount --bind {work}/hosts_{name} /etc/hosts"
        " && mount -t tmpfs none /run && mkdir -p /run/sshd"
        f" && mount -t tmpfs none /etc/ssh && cp {work}/ssh_config /etc/ssh/ssh_config"
    )


def _connect(made: Cluster) -> None:
    """Join the machines by a bridge on the login machine."""
    made.login.sh(f"ip link add br0 type bridge && ip addr add {ADDRESSES['login']}/24 dev br0 && ip link set br0 up")
    for node in made.nodes:
        words = ["nsenter", "-t", str(made.login.holder), "-n", "ip", "link", "add", f"v_{node.name}", "type", "veth"]
        subprocess.run([*words, "peer", "name", "eth0", "netns", str(node.holder)], check=True)
        made.login.sh(f"ip link set v_{node.name} master br0 up")
        node.sh(f"ip addr add {ADDRESSES[node.name]}/24 dev eth0 && ip link set eth0 up")
