"""Available memory: of the machine, its control group, a process and a GPU."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from train.distributed.out_of_memory import says_no_memory
from train.faults import fault

if TYPE_CHECKING:
    import torch

from curriculum.work.cpus import control_groups

ENDLESS = 1 << 60
"""Values from this on mean that a control group has no limit."""


@dataclass(frozen=True)
class AvailableMemory:
    """Available memory; None: unknown, or no limit."""

    device: int | None = None
    """Bytes of this rank's GPU; None: the rank computes in host memory."""
    host: int | None = None
    """Bytes for all processes of this machine: its memory and swap, or its control group's limit."""
    process: int | None = None
    """Limit of one process in bytes (ulimit -v, ulimit -d)."""
    free: int | None = None
    """Bytes free now, on the GPU or else on the machine."""


def available_memory(*, cuda_device: int | None, root: Path = Path("/")) -> AvailableMemory:
    """Return the memory of this machine and of this rank's GPU; `root` is the folder that holds /proc and /sys."""
    host, free = _machine(root)
    limits = [limit for limit in (_limit(resource.RLIMIT_AS), _limit(resource.RLIMIT_DATA)) if limit is not None]
    process = min(limits, default=None)
    if cuda_device is None:
        return AvailableMemory(None, host, process, free)
    import torch

    free, device = torch.cuda.mem_get_info(cuda_device)
    return AvailableMemory(device, host, process, free)


def can_allocate(size: int, device: torch.device, ranks: int) -> bool:
    """Return whether `size` more bytes are free: on a GPU, or in host memory for each of `ranks` ranks."""
    import torch

    free = available_memory(cuda_device=None).free if device.type == "cpu" else None
    if free is not None and ranks * size > free:  # the kernel would promise more than it has
        return False
    try:
        fault("memory.trial")
        torch.empty(size, dtype=torch.uint8, device=device)
    except Exception as error:
        if says_no_memory(error):
            return False
        raise
    return True


def _limit(kind: int) -> int | None:
    soft = resource.getrlimit(kind)[0]
    return None if soft == resource.RLIM_INFINITY else soft


def _machine(root: Path) -> tuple[int | None, int | None]:
    """Return the bytes available to the processes of this machine, and the bytes free now."""
    try:
        rows = [line.split() for line in (root / "proc/meminfo").read_text().splitlines()]
        facts = {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows if len(row) > 1}
    except (OSError, ValueError):
        facts = {}
    whole = facts["MemTotal"] + facts.get("SwapTotal", 0) if "MemTotal" in facts else None
    found = [limit for limit in (whole, *_group_limits(root)) if limit is not None]
    return min(found, default=None), facts.get("MemAvailable")


def _group_limits(root: Path) -> Iterator[int]:
    for folder, version in control_groups("memory", root):
        try:
            limit = int((folder / ("memory.max" if version == 2 else "memory.limit_in_bytes")).read_text())
        except (OSError, ValueError):  # no such file, or "max"
            continue
        if limit < ENDLESS:
            yield limit


def oom_kills(root: Path = Path("/")) -> int:
    """Return how many processes in this process's control group the kernel's OOM killer has killed."""
    for folder, version in control_groups("memory", root):
        try:
            lines = (folder / ("memory.events" if version == 2 else "memory.oom_control")).read_text().splitlines()
            return int(dict(line.split() for line in lines).get("oom_kill", 0))
        except (OSError, ValueError):
            continue
    return 0
