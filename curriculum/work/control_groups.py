"""Linux control groups: the limits of the groups that hold this process, in a container or a Slurm job."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[tuple[Path, int]]:
    """Yield the folders of this process's group and its ancestors for a controller, each with its version, 1 or 2.

    `root` is the folder that holds /proc and /sys.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for _, controllers, path in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers and controller not in controllers.split(","):
            continue
        base, inside = root / "sys/fs/cgroup" / controllers, Path(path.lstrip("/"))
        for folder in (inside, *inside.parents):
            yield base / folder, 1 if controllers else 2


def cpu_quota(root: Path = Path("/")) -> float | None:
    """Return the number of CPUs that these groups grant at once, None if there is no limit."""
    found = [quota for folder, version in control_groups("cpu", root) if (quota := _quota(folder, version)) is not None]
    return min(found, default=None)


def _quota(folder: Path, version: int) -> float | None:
    try:
        if version == 2:
            quota, period = (folder / "cpu.max").read_text().split()
        else:
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError, ZeroDivisionError):  # no such file, or "max"
        return None
