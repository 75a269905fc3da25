"""Are the GPUs there, healthy, free and connected? What nvidia-smi says, compared with what torch sees.

Not yet run on a GPU: tried against recorded output of nvidia-smi.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from launch.cluster.machines import Local
from launch.doctor.check import Finding, Subject, failure, ok, warning
from launch.doctor.programs import installed, said

SMI = "nvidia-smi"
LIMIT_S = 30.0
BUSY = 0.05
"""Share of a GPU's memory from which on something else counts as running there."""
LISTED = "index,name,memory.total,memory.used"
COUNTS = "ecc.errors.uncorrected.volatile.total", "ecc.errors.corrected.volatile.total", "remapped_rows.failure"
FAST = re.compile(r"NV\d+|X")
"""What `nvidia-smi topo -m` says of two GPUs with NVLink between them, and of a GPU and itself."""


NVIDIA, DISPLAY = "0x10de", "0x03"
"""Vendor, and start of the class of display controllers, in /sys/bus/pci/devices."""


class Gpu(NamedTuple):
    """A line of nvidia-smi."""

    number: str
    name: str
    total_mib: int
    used_mib: int


def gpus(subject: Subject) -> Iterator[Finding]:
    """Compare the GPUs of the machine, of torch and of the run."""
    import torch

    asked, seen = subject.gpus_asked, torch.cuda.device_count()
    there = _listed()
    if isinstance(there, Finding):
        yield there
        return
    if there and not seen:
        why = f"torch {torch.__version__} is built without CUDA" if torch.version.cuda is None else "torch sees none"
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        if hidden is not None and torch.version.cuda is not None:
            why = f"CUDA_VISIBLE_DEVICES={hidden!r} hides them from torch"
        remedy = "install torch's CUDA wheel" if torch.version.cuda is None else "unset it, or update the driver"
        yield failure(f"{SMI} lists {len(there)} ({there[0].name}), but {why}", remedy)
    if not there and not seen:
        yield _none_here(subject)
        return
    count = seen if torch.version.cuda is not None else len(there)
    if asked is not None and count < asked:
        yield failure(
            f"{count} of the {asked} GPUs that the run asks for are here",
            "look for a GPU that fell off the bus (dmesg | grep -i xid), reboot or drain the node, or lower "
            f"{'processes' if subject.settings.processes else 'cluster.gpus_per_node'} to {count}",
        )
    if not there:
        return
    if len({one.name for one in there}) > 1:
        kinds = ", ".join(sorted({one.name for one in there}))
        yield warning(f"different GPUs in one node ({kinds})", "the slowest sets the pace: use nodes of one kind")
    for one in there:
        if one.used_mib > BUSY * one.total_mib:
            yield warning(
                f"GPU {one.number}: {one.used_mib:,} of {one.total_mib:,} MiB are in use",
                f"end what runs there ({SMI} lists the processes), or leave it out with CUDA_VISIBLE_DEVICES",
            )
    yield ok(f"{len(there)} x {there[0].name}, {there[0].total_mib:,} MiB each")


def ecc(_subject: Subject) -> Iterator[Finding]:
    """Read the ECC counters since the last reset, and whether a row could not be remapped."""
    rows = _query("index", *COUNTS)
    for index, uncorrected, corrected, unmapped in rows:
        if _number(uncorrected):
            yield failure(
                f"GPU {index} has {uncorrected} uncorrected ECC errors since its last reset",
                "take the node out of the job and have it reset or its GPU replaced: results may already be wrong",
            )
        elif unmapped.lower() == "yes" or _number(unmapped):
            yield failure(f"GPU {index} could not remap a damaged row of memory", "have the GPU replaced")
        elif _number(corrected) > 1000:
            yield warning(f"GPU {index} has {corrected} corrected ECC errors", "watch it, and have the node reset")
        else:
            yield ok(f"GPU {index}: no uncorrected ECC errors")


def driver(_subject: Subject) -> Iterator[Finding]:
    """Compare the CUDA version of the driver with torch's."""
    import torch

    if not installed(SMI):
        return
    found = re.search(r"CUDA Version:\s*(\d+)\.(\d+)", said([SMI], LIMIT_S).out)
    if found is None or torch.version.cuda is None:
        return
    newest, needed = int(found[1]), int(torch.version.cuda.partition(".")[0])
    if newest < needed:
        yield failure(
            f"the driver supports CUDA {found[1]}.{found[2]}, but torch is built for {torch.version.cuda}",
            f"update the driver, or install torch built for CUDA {newest}",
        )
    else:
        yield ok(f"the driver supports CUDA {found[1]}.{found[2]}, torch needs {torch.version.cuda}")


def interconnect(_subject: Subject) -> Iterator[Finding]:
    """Read the matrix of `nvidia-smi topo -m`."""
    if not installed(SMI):
        return
    lines = re.sub(r"\x1b\[[\d;]*m", "", said([SMI, "topo", "-m"], LIMIT_S).out).splitlines()
    rows = [one.split() for one in lines if re.match(r"GPU\d+\s", one)]
    if len(rows) < 2:
        return
    slow = [
        f"{row[0]}-GPU{other} {link}"
        for number, row in enumerate(rows)
        for other, link in enumerate(row[1 : len(rows) + 1])
        if other > number and not FAST.fullmatch(link)
    ]
    if slow:
        more = f" and {len(slow) - 4} more" if len(slow) > 4 else ""
        yield warning(
            f"no NVLink between {', '.join(slow[:4])}{more}",
            "expect slow reductions: check that all links are up (nvidia-smi nvlink --status), or reduce traffic with "
            "zero.stage=1 and larger micro-batches",
        )
    else:
        yield ok(f"NVLink between all {len(rows)} GPUs")


def _none_here(subject: Subject) -> Finding:
    """Return what it means that neither nvidia-smi nor torch knows a GPU."""
    devices = (subject.root / "sys/bus/pci/devices").glob("*/vendor")
    cards = [path for path in devices if _text(path) == NVIDIA and _text(path.parent / "class").startswith(DISPLAY)]
    if cards:
        return failure(
            f"{len(cards)} NVIDIA GPU{'s' if len(cards) > 1 else ''} on the PCI bus, but no driver",
            "install or load it (modprobe nvidia); in a container, start it with --gpus all",
        )
    if subject.gpus_asked is not None and not isinstance(subject.cluster, Local):
        return warning(
            f"none on this machine, where the run wants {subject.gpus_asked}",
            "run pdpc doctor on the nodes; if they have none, ranks compute on the CPU, over gloo",
        )
    return ok("none on this machine: ranks compute on the CPU, over gloo")


def _text(path: Path) -> str:
    try:
        return path.read_text("ascii").strip()
    except (OSError, ValueError):
        return ""


def _listed() -> list[Gpu] | Finding:
    """Return the GPUs that nvidia-smi lists, none without it; a finding if it fails."""
    if not installed(SMI):
        return []
    answer = said([SMI, f"--query-gpu={LISTED}", "--format=csv,noheader,nounits"], LIMIT_S)
    if answer.code:
        return failure(
            f"{SMI} fails ({answer.last})", "reload or reinstall the NVIDIA driver (after an update: reboot the node)"
        )
    return [Gpu(row[0], row[1], int(_number(row[2])), int(_number(row[3]))) for row in _rows(answer.out, 4)]


def _query(*names: str) -> list[list[str]]:
    """Return the values of these fields of every GPU; none without nvidia-smi or where it does not know a field."""
    if not installed(SMI):
        return []
    answer = said([SMI, f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"], LIMIT_S)
    return [] if answer.code else _rows(answer.out, len(names))


def _rows(text: str, columns: int) -> list[list[str]]:
    rows = [[cell.strip() for cell in one.split(",")] for one in text.splitlines()]
    return [row for row in rows if len(row) == columns]


def _number(text: str) -> float:
    """Return a value as a number; 0 for [N/A] and the like."""
    try:
        return float(text)
    except ValueError:
        return 0.0
