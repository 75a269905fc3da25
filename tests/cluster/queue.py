"""A real Slurm on the machines of a cluster: munged and slurmctld on the login machine, slurmd on each node."""

from __future__ import annotations

import os
import re
import shlex
import time
from pathlib import Path

from tests.cluster.machines import Cluster

CONFIGURATION = """\
ClusterName=pdpc
SlurmctldHost=login
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={work}/munge/socket,cred_expire=5
StateSaveLocation={work}/slurm/state
SlurmdSpoolDir={work}/slurm/%n
SlurmctldPidFile={work}/slurm/slurmctld.pid
SlurmdPidFile={work}/slurm/slurmd_%n.pid
SlurmctldLogFile={work}/slurm/slurmctld.log
SlurmdLogFile={work}/slurm/slurmd_%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=20
SchedulerParameters=sched_interval=2,bf_interval=2
NodeName=n1 NodeAddr=10.99.0.11 CPUs=4 RealMemory=1000
NodeName=n2 NodeAddr=10.99.0.12 CPUs=4 RealMemory=1000
PartitionName=all Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""
ENDED = ("COMPLETED", "CANCELLED", "FAILED", "TIMEOUT", "NODE_FAIL")


def start_slurm(cluster: Cluster) -> None:
    """Start Slurm; return when both nodes are idle. Raises RuntimeError if they are not in time."""
    work = cluster.work
    for name in ("munge", "slurm", "slurm/state", "slurm/n1", "slurm/n2"):
        (work / name).mkdir()
    key = work / "munge" / "key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    (work / "munge").chmod(0o755)
    (work / "slurm.conf").write_text(CONFIGURATION.format(work=work))
    for machine in cluster.machines.values():
        machine.sh(f"mount -t tmpfs none /etc/slurm && cp {shlex.quote(str(work))}/slurm.conf /etc/slurm/slurm.conf")
    files = [f"--{key}-file={work}/munge/{key}" for key in ("key", "pid", "seed", "log")]
    cluster.login.daemon("/usr/sbin/munged", "--foreground", "--force", f"--socket={work}/munge/socket", *files)
    _until("munged does not listen", lambda: (work / "munge" / "socket").exists(), work)
    cluster.login.daemon("/usr/sbin/slurmctld", "-D", "-c")
    for node in cluster.nodes:
        node.daemon("/usr/sbin/slurmd", "-D", "-N", node.name)
    idle = "sinfo --noheader --format=%t"
    _until("the nodes are not idle", lambda: cluster.login.sh(idle, check=False).split() == ["idle"], work, 60.0)


def state(cluster: Cluster, job: str) -> dict[str, str]:
    """Return what `scontrol` says about a job, by key."""
    text = cluster.login.sh(f"scontrol --oneliner show job {job}")
    return dict(re.findall(r"(\w+)=(\S*)", text))


def wait_job(cluster: Cluster, job: str, timeout_s: float = 120.0) -> dict[str, str]:
    """Return the final state of a job."""
    _until(f"job {job} does not end", lambda: state(cluster, job)["JobState"] in ENDED, cluster.work, timeout_s)
    return state(cluster, job)


def _until(problem: str, condition, work: Path, timeout_s: float = 30.0) -> None:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            logs = [*work.glob("*.log"), *work.glob("slurm/*.log"), *work.glob("munge/log")]
            tails = [f"{path.name}: {path.read_text('utf-8', 'replace')[-600:]}" for path in logs]
            raise RuntimeError("\n".join([problem, *tails]))
        time.sleep(0.3)
