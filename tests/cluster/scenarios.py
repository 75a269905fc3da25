"""The scenarios, each with how it must end (docs/clusters.md, docs/reliability.md). They return what they measured."""

from __future__ import annotations

import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.cluster.bench import SLOW, Bench, Problem, step_of
from tests.cluster.queue import state, wait_job
from train.records.run_json import read_run

DISTURBED = f"+cluster.environment.PDPC_FAULT={SLOW}"


def both_nodes(bench: Bench, folder: Path) -> str:
    """Train on both nodes over ssh."""
    took = bench.launch(folder / "run").ends(0)
    bench.equal(folder / "run")
    return f"{took:.0f} s"


def cut_and_return(bench: Bench, folder: Path) -> str:
    """A node is unreachable for five seconds: training waits, and continues."""
    typed = bench.launch(folder / "run", DISTURBED)
    bench.reach(folder / "run", 5, typed)
    bench.cluster.cut("n2")
    time.sleep(5)
    bench.cluster.mend("n2")
    typed.ends(0)
    bench.equal(folder / "run")
    return "survived"


def lost_node(bench: Bench, folder: Path) -> str:
    """A node is lost for good: the command ends within the hang time-out, names it, and resumes once it is back."""
    limit_s = 12
    typed = bench.launch(folder / "run", DISTURBED, f"hang_timeout_s={limit_s}")
    bench.reach(folder / "run", 5, typed)
    with bench.cluster.without("n2", folder / "scripts"):  # a shared file system is behind the network too
        bench.cluster.cut("n2")
        cut = time.monotonic()
        says = ["rank 1 on n2: no exit code: the machine was lost", "rank 0 hangs"]
        typed.ends(79, says=says, within_s=limit_s + bench.patience_s / 6)
        took = time.monotonic() - cut
        bench.cluster.mend("n2")
    bench.until(
        lambda: "-m train" not in bench.cluster.machines["n2"].sh("ps ax"), "the lost node's rank is still there"
    )
    bench.launch(folder / "run").ends(0)
    bench.equal(folder / "run")
    return f"{took:.0f} s after the cut (hang_timeout_s={limit_s})"


def no_data(bench: Bench, folder: Path) -> str:
    """One node does not have the data: all leave with its message."""
    words = dict(word.split("=", 1) for word in bench.material.words)
    tokens = Path(words["data.tokens"])
    with bench.cluster.without("n2", tokens):
        took = bench.launch(folder / "run").ends(2, says=["on n2) was rejected: pdpc train: ", str(tokens)])
    with bench.cluster.without("n1", tokens):
        also = bench.launch(folder / "run").ends(2, says=["pdpc train: ", str(tokens)])
    return f"{took:.0f} s, and {also:.0f} s where rank 0 lacks it"


def own_name(bench: Bench, folder: Path) -> str:
    """A node's own name is 127.0.1.1, Debian's default: it says which variable to set, and that works."""
    node = bench.cluster.machines["n2"]
    node.is_named("127.0.1.1")
    try:
        took = bench.launch(folder / "run").ends(2, says=["on n2 its own name is 127.0.1.1", "GLOO_SOCKET_IFNAME=eth0"])
        bench.launch(folder / "run", "+cluster.environment.GLOO_SOCKET_IFNAME=eth0").ends(0)
    finally:
        node.is_named()
    bench.equal(folder / "run")
    return f"{took:.0f} s"


def sigterm(bench: Bench, folder: Path) -> str:
    """SIGTERM, then SIGHUP, to `pdpc launch`: a checkpoint and code 143; the same command then completes the run."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        typed = bench.launch(folder / "run", DISTURBED)
        bench.reach(folder / "run", step_of(folder / "run") + 4, typed)
        typed.signal(number)
        typed.ends(143, says=["exited on SIGTERM with a checkpoint"])
        bench.stopped(folder / "run", "SIGTERM")
    bench.launch(folder / "run").ends(0)
    bench.equal(folder / "run")
    return "143 twice"


def sigterm_at_start(bench: Bench, folder: Path) -> str:
    """SIGTERM before the ranks have started: code 143, and nothing is left on the nodes."""
    typed = bench.launch(folder / "run")
    bench.until(lambda: "start it with" in typed.told(), "nothing was started")
    time.sleep(3)
    typed.signal(signal.SIGTERM)
    took = typed.ends(143, within_s=bench.patience_s / 4)
    for node in bench.cluster.nodes:
        bench.until(lambda node=node: "-m train" not in node.sh("ps ax"), f"{node.name} still has a rank")
    return f"{took:.0f} s"


def sigkill(bench: Bench, folder: Path) -> str:
    """SIGKILL of `pdpc launch` reaches nobody: the ranks on the nodes complete the run."""
    typed = bench.launch(folder / "run", DISTURBED)
    bench.reach(folder / "run", 5, typed)
    typed.signal(signal.SIGKILL)
    typed.ends(137, -signal.SIGKILL)
    bench.until(lambda: read_run(folder / "run")["status"] == "finished", "the run does not go on")
    bench.equal(folder / "run")
    return "trained on"


def slurm(bench: Bench, folder: Path) -> str:
    """Train on both nodes through Slurm, which has no GPUs to request."""
    job, log = bench.submit(folder / "run")
    found = wait_job(bench.cluster, job, bench.patience_s)
    if found["JobState"] != "COMPLETED":
        raise Problem(f"{found['JobState']}: {log.read_text()[-1500:]}")
    bench.equal(folder / "run")
    return found["RunTime"]


def time_limit(bench: Bench, folder: Path) -> str:
    """The time limit is near: a checkpoint, the job is requeued, and it resumes."""
    run = folder / "run"
    slow = DISTURBED.replace("0.4", "5")  # Slurm looks at time limits every 30 s
    job, log = bench.submit(run, "cluster.time_limit=1:00:00", "cluster.signal_s=60", slow)
    bench.reach(run, 4)
    hours, minutes, _ = state(bench.cluster, job)["RunTime"].split(":")
    bench.cluster.login.sh(f"scontrol update JobId={job} TimeLimit={60 * int(hours) + int(minutes) + 2}")
    bench.until(lambda: state(bench.cluster, job)["Restarts"] == "1", "the job is not requeued")
    bench.cluster.login.sh(f"scontrol update JobId={job} TimeLimit=60")
    bench.stopped(run, "SIGUSR1")
    found = wait_job(bench.cluster, job, bench.patience_s)
    if found["JobState"] != "COMPLETED" or "resumed from step" not in log.read_text():
        raise Problem(f"{found['JobState']}: {log.read_text()[-1500:]}")
    if "requeueing the job" not in log.read_text():
        raise Problem(f"the script did not requeue it: {log.read_text()[-1500:]}")
    bench.equal(run)
    return "requeued once"


def scancel(bench: Bench, folder: Path) -> str:
    """`scancel` lets the ranks write a checkpoint; the same command resumes from it."""
    job, log = bench.submit(folder / "run", DISTURBED)
    bench.reach(folder / "run", 5)
    bench.cluster.login.sh(f"scancel {job}")
    found = wait_job(bench.cluster, job, bench.patience_s)
    if found["JobState"] != "CANCELLED":
        raise Problem(f"{found['JobState']}: {log.read_text()[-1500:]}")
    bench.until(lambda: "_" not in state(bench.cluster, job)["JobState"], "the job is still completing")
    bench.stopped(folder / "run", "SIGTERM")
    job, log = bench.submit(folder / "run")
    if wait_job(bench.cluster, job, bench.patience_s)["JobState"] != "COMPLETED":
        raise Problem(log.read_text()[-1500:])
    bench.equal(folder / "run")
    return "a checkpoint, then resumed"


def bare_srun(bench: Bench, folder: Path) -> str:
    """`srun python -m train`, without any launcher: its tasks are the ranks."""
    train = [sys.executable, "-m", "train", *bench.words(folder / "run")]
    took = bench.type(["srun", "--nodes=2", "--ntasks-per-node=1", *train]).ends(0)
    bench.equal(folder / "run")
    each = [sys.executable, "-m", "launch.cli", "train", *bench.words(folder / "other")]
    bench.type(["srun", "--nodes=2", *each]).ends(2, says=["srun started 2 tasks", "srun ... python -m train"])
    if (folder / "other").exists():
        raise Problem("a rejected run has an output")
    return f"{took:.0f} s"


def mpirun(bench: Bench, folder: Path) -> str:
    """`mpirun -n 2 python -m train` on one machine: its processes are the ranks."""
    if shutil.which("mpirun") is None:
        return "skipped: mpirun is not installed"
    options = ["--allow-run-as-root", "--oversubscribe", "-n", "2"]
    train = [sys.executable, "-m", "train", *bench.words(folder / "run")]
    took = bench.type(["mpirun", *options, *train]).ends(0)
    bench.equal(folder / "run")
    return f"{took:.0f} s"


def rejected(bench: Bench, folder: Path) -> str:
    """What cannot work is rejected before it is queued: arrays, missing data, a batch that no rank count divides."""
    slurm = ["launch", "cluster=slurm", f"scripts={folder / 'scripts'}", "--dry-run"]
    run = bench.words(folder / "run")
    for more, says in (
        (["cluster.options=[--array=0-3]"], "use pdpc study"),
        (["data.tokens=/nope", "cluster.nodes=100"], "/nope"),
        (["cluster.nodes=5"], "does not divide the order's batch"),
        (["benchmarks.tasks=[no_such_task]"], "no_such_task"),
        (["output=s3://bucket/run"], "output=s3://bucket/run is an address"),
        (["cluster.gpus_per_node=null"], "cluster.processes_per_node"),
    ):
        bench.pdpc(*slurm, *run, *more).ends(2, says=[says])
        if folder.joinpath("scripts").exists():
            raise Problem(f"{more} was rejected, and scripts were written")
    bench.pdpc(*slurm, *run, "cluster.gpus_per_node=null", "cluster.processes_per_node=1").ends(0)
    script = folder / "scripts" / "train.sbatch"
    if "--gpus" in script.read_text():
        raise Problem("GPUs are requested")
    job = bench.cluster.login.sh(f"sbatch --parsable --array=0-1 {script}").split()[0]
    bench.until(lambda: "array" in "".join(path.read_text() for path in script.parent.glob("*.log")), "no task says so")
    bench.until(lambda: state(bench.cluster, job)["JobState"] == "FAILED", "the array does not fail")
    if folder.joinpath("run").exists():
        raise Problem("a rejected run has an output")
    return "7 of 7"


SCENARIOS: dict[str, Callable[[Bench, Path], str]] = {
    scenario.__name__: scenario
    for scenario in (
        *(both_nodes, cut_and_return, lost_node, no_data, own_name, sigterm, sigterm_at_start, sigkill),
        *(slurm, time_limit, scancel, bare_srun, mpirun, rejected),
    )
}
