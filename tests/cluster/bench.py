"""What the scenarios share: a tiny run, the same run on one host, and commands on the login machine."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.machines import ROOT, Cluster
from tests.torture.runs import Ending, Material, difference
from train.records.run_json import read_run
from train.tracking import read_metrics

SLOW = "loop.before_step:rank=0:nth=3:sleep=0.4"
"""A fault that makes a run last long enough to be disturbed: seconds per step, from the third on."""


class Problem(Exception):
    """A scenario did not end as it should."""


@dataclass
class Typed:
    """A command on a machine of the cluster."""

    process: subprocess.Popen[str]
    log: Path
    patience_s: float
    """How long it may take."""
    began: float = field(default_factory=time.monotonic)

    def told(self) -> str:
        """Return its output so far."""
        return self.log.read_text("utf-8", "replace")

    def signal(self, number: int) -> None:
        """Signal the command itself, and nothing that it has started."""
        child = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        os.kill(int(child[0]), number)

    def ends(self, *codes: int, says: Sequence[str] = (), within_s: float | None = None) -> float:
        """Wait for its end; return how long it took. Raises Problem for another code, or if its output lacks words."""
        limit_s = within_s or self.patience_s
        try:
            code = self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise Problem(f"it did not end within {limit_s:g} s: {self.told()[-1500:]}") from None
        if code not in codes:
            raise Problem(f"it ended with {code} instead of {codes}: {self.told()[-1500:]}")
        if missing := [words for words in says if words not in self.told()]:
            raise Problem(f"it does not say {missing}: {self.told()[-1500:]}")
        return time.monotonic() - self.began


@dataclass
class Bench:
    """A cluster with a run to train on it."""

    cluster: Cluster
    work: Path
    material: Material
    whole: Ending | None = None
    """The run on one host."""
    patience_s: float = 240.0
    """How long any command may take."""
    _number: int = 0
    typed: list[Typed] = field(default_factory=list)

    def words(self, output: Path, *more: str) -> list[str]:
        """Return the overrides of the run."""
        return [*self.material.words, f"output={output}", *more]

    def type(self, words: Sequence[str], environment: Mapping[str, str] | None = None, on: str = "login") -> Typed:
        """Start a command on a machine."""
        self._number += 1
        log = self.work / f"{self._number:02d}_{on}.log"
        variables = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **(environment or {})}
        with open(log, "w") as out:
            out.write(f"$ {shlex.join(words)}\n")
            out.flush()
            process = subprocess.Popen(
                self.cluster.machines[on].command(words, variables),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.typed.append(Typed(process, log, self.patience_s))
        return self.typed[-1]

    def pdpc(self, *words: str) -> Typed:
        """Start `pdpc` with these words on the login machine."""
        return self.type([sys.executable, "-m", "launch.cli", *words])

    def launch(self, output: Path, *more: str) -> Typed:
        """Start `pdpc launch` on both nodes over ssh; a second call for an output is the same command again."""
        where = ["cluster=hostfile", 'cluster.hosts=["n[1-2]"]', "cluster.gpus_per_node=1"]
        where += ["+cluster.environment.OMP_NUM_THREADS=1", f"scripts={output.parent / 'scripts'}"]
        return self.pdpc("launch", *where, *self.words(output), *more)

    def submit(self, output: Path, *more: str) -> tuple[str, Path]:
        """Queue the run with `pdpc launch cluster=slurm`; return the job's number and its log."""
        scripts = output.parent / "scripts"
        where = ["cluster=slurm", "cluster.nodes=2", "cluster.gpus_per_node=null", "cluster.processes_per_node=1"]
        where += ["+cluster.environment.OMP_NUM_THREADS=1", f"scripts={scripts}"]
        typed = self.pdpc("launch", *where, *self.words(output), *more)
        typed.ends(0, says=["Submitted batch job"])
        job = typed.told().partition("Submitted batch job")[2].split()[0]
        return job, scripts / f"pdpc-{job}.log"

    def equal(self, output: Path) -> None:
        """Raise Problem unless a finished run equals that of one host: order, losses, weights."""
        assert self.whole is not None
        if found := difference(output, self.material, self.whole, bitwise=False):
            raise Problem(found)

    def stopped(self, output: Path, name: str) -> None:
        """Raise Problem unless a run was stopped by a signal, in the middle."""
        status, steps = read_run(output)["status"], step_of(output)
        if status != f"stopped by {name}" or not 0 < steps < self.material.order.steps:
            raise Problem(f"the run is {status!r} at step {steps}")

    def reach(self, output: Path, step: int, typed: Typed | None = None) -> None:
        """Wait until a run has recorded a step."""

        def check() -> bool:
            if typed is not None and typed.process.poll() is not None:
                raise Problem(f"it ended before step {step}: {typed.told()[-1500:]}")
            return step_of(output) >= step

        self.until(check, f"step {step} was not reached")

    def until(self, condition: Callable[[], bool], problem: str) -> None:
        """Wait for a condition. Raises Problem if it does not hold in time."""
        deadline = time.monotonic() + self.patience_s
        while not condition():
            if time.monotonic() > deadline:
                raise Problem(f"{problem} within {self.patience_s:g} s")
            time.sleep(0.2)

    def end(self) -> None:
        """End what is still running."""
        for one in self.typed:
            if one.process.poll() is None:
                os.killpg(one.process.pid, signal.SIGKILL)
                one.process.wait()


def step_of(output: Path) -> int:
    """Return the last step that a run has recorded."""
    if not (output / "metrics.jsonl").exists():
        return 0
    return max((record["step"] for record in read_metrics(output / "metrics.jsonl")), default=0)
