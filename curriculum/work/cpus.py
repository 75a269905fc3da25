"""CPUs that this process may use: by its affinity and by the CPU quota of its control group; threads per process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

OMP = "OMP_NUM_THREADS"
"""The user's own number of threads per process. OpenMP allows a list, one number per level of nesting."""


def usable_cpus(root: Path = Path("/")) -> int:
    """Return the number of CPUs this process may use, at least 1; a quota of 1.5 CPUs counts as 2.

    A batch system or a container usually grants fewer than the machine has. `root` is the folder that holds /proc and
    /sys.
    """
    granted = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([granted, *_quotas(root)]))


def threads_per_process(processes: int, chosen: int | None = None) -> int:
    """Return CPU threads for each of `processes` processes of this machine.

    The first that there is: `chosen` (a setting), OMP_NUM_THREADS, an equal share of the CPUs that may be used.
    """
    return chosen or own_threads() or max(1, usable_cpus() // processes)


def own_threads() -> int | None:
    """Return the number of threads that the user's OMP_NUM_THREADS asks for; None if it is absent or not a number."""
    first = os.environ.get(OMP, "").partition(",")[0].strip()
    return int(first) if first.isascii() and first.isdigit() and int(first) else None


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[tuple[Path, int]]:
    """Yield the folders of this process's control group and its ancestors for a controller, each with its version.

    The version is 1 or 2; with both mounted, both are yielded. `root` is the folder that holds /proc and /sys.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers and controller not in controllers.split(","):
            continue
        base, inside = root / "sys/fs/cgroup" / controllers, Path(path.lstrip("/"))
        for folder in (inside, *inside.parents):
            yield base / folder, 1 if controllers else 2


def _quotas(root: Path) -> Iterator[int]:
    for folder, version in control_groups("cpu", root):
        try:
            if version == 2:
                quota, period = (folder / "cpu.max").read_text("utf-8").split()
            else:
                quota, period = ((folder / f"cpu.cfs_{name}_us").read_text("utf-8") for name in ("quota", "period"))
            whole, rest = divmod(int(quota), int(period))
        except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
            continue
        if whole >= 0:  # -1 in version 1: no quota
            yield whole + bool(rest)
