"""python -m tests.cluster [--only NAME] [--keep]: run PDPC on a small cluster made of this machine (`make cluster`).

It needs root, for namespaces, and Debian's openssh-server, pdsh, slurm-wlm and munge. Whatever happens, everything that
it starts ends with it, and nothing is changed outside its folder.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

NEEDED = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "ip": "iproute2",
    "ps": "procps",
    "ssh": "openssh-client",
    "/usr/sbin/sshd": "openssh-server",
    "pdsh": "pdsh",
    "/usr/sbin/munged": "munge",
    "/usr/sbin/slurmctld": "slurm-wlm",
    "/usr/sbin/slurmd": "slurm-wlm",
}
ROW = "{:<17} {:<7} {:>5}  {}"


def lacking() -> str | None:
    """Return what this machine lacks for a cluster; None if nothing."""
    if os.geteuid() != 0:
        return "make cluster needs root, for namespaces: run it as root, for example in a container or virtual machine"
    packages = sorted({package for program, package in NEEDED.items() if shutil.which(program) is None})
    if packages:
        return f"make cluster needs programs that are not installed: apt-get install -y {' '.join(packages)}"
    return None


def main(words: list[str]) -> int:
    """Run the scenarios; return 0 if all ended as they should, 1 if not, 2 if this machine cannot run them."""
    from tests.cluster.scenarios import SCENARIOS

    parser = argparse.ArgumentParser(prog="python -m tests.cluster", description="Run PDPC on a cluster in namespaces.")
    parser.add_argument("--only", action="append", choices=SCENARIOS, help="run only this scenario; repeatable")
    parser.add_argument("--keep", action="store_true", help="keep the folder with runs and logs")
    parser.add_argument("--patience", type=float, default=240.0, help="seconds that a command may take (default: 240)")
    options = parser.parse_args(words)
    if problem := lacking():
        print(problem, file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that everything is taken down
    signal.signal(signal.SIGHUP, lambda *_: sys.exit(143))
    work = Path(tempfile.mkdtemp(prefix="pdpc_cluster_"))
    work.chmod(0o755)  # sshd and munge do not take keys below a folder that others could write to
    good = False
    try:
        good = _run(work, options.only or list(SCENARIOS), options.patience)
    finally:
        if options.keep or not good:
            print(f"runs and logs are in {work}")
        else:
            shutil.rmtree(work, ignore_errors=True)
    return 0 if good else 1


def _run(work: Path, names: list[str], patience_s: float) -> bool:
    from tests.cluster.bench import Bench, Problem
    from tests.cluster.machines import cluster
    from tests.cluster.queue import start_slurm
    from tests.cluster.scenarios import SCENARIOS
    from tests.torture.runs import Ending, Material

    good = True
    with cluster(work) as made:
        bench = Bench(made, work, Material.make(work / "material", stages=1, samples=300), patience_s=patience_s)
        try:
            start_slurm(made)
            bench.pdpc("train", *bench.words(work / "whole"), "processes=2").ends(0)
            bench.whole = Ending.of(work / "whole")
            print(ROW.format("scenario", "result", "s", f"({bench.material.order.steps} steps on 2 nodes)"), flush=True)
            for name in names:
                began = time.monotonic()
                folder = work / "runs" / name
                folder.mkdir(parents=True)
                try:
                    result, note = "passed", SCENARIOS[name](bench, folder)
                except (Problem, RuntimeError) as problem:
                    result, note, good = "FAILED", str(problem), False
                print(ROW.format(name, result, f"{time.monotonic() - began:.0f}", note), flush=True)
        finally:
            bench.end()
    return good


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        print("interrupted: everything that was started has ended", file=sys.stderr)
        sys.exit(130)
