"""GPUs by name and where they are: what an estimate needs to know of a cluster.

Peaks are dense bf16 (NVIDIA's data sheets; the same as train/hooks/throughput.py), `memory_gib` is what the driver
reports as the card's total. NVLink is per direction. An A800 or H800 is an A100 or H100 with a slower link.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.cluster.hosts import expand
from launch.cluster.launch import CLUSTERS
from launch.cluster.machines import Cluster, Hostfile, Local, Start, check_least
from launch.cluster.slurm import Slurm

GPUS_PER_NODE = 8
"""Where a cluster of `pdpc launch` does not say."""


@dataclass(frozen=True)
class Accelerators(Cluster):
    """Nodes with GPUs of one kind. It describes hardware; `pdpc launch` takes local, hostfile or slurm."""

    nodes: int = 1
    """Number of nodes."""
    gpus_per_node: int = GPUS_PER_NODE
    """GPUs, and ranks, on each node."""
    peak_tflops: float = 312.0
    """Dense bf16 peak of a GPU in TFLOP/s."""
    memory_gib: float = 79.1
    """Memory of a GPU in GiB, as the driver reports it."""
    reserve_gib: float = 3.0
    """Of it, GiB for the CUDA context, NCCL and fragmentation (an assumption, not measured)."""
    bandwidth_gb_s: float = 2039.0
    """Memory bandwidth of a GPU in GB/s."""
    link_gb_s: float = 300.0
    """NVLink of a GPU in GB/s, per direction."""
    network_gbit_s: float = 1600.0
    """Network of a node in Gbit/s (the published rows: 8 x 200)."""
    disk_gb_s: float = 2.0
    """GB/s at which all ranks together write a checkpoint (an assumption: measure your file system)."""
    mtbf_gpu_hours: float = 50_700.0
    """GPU hours between failures: 419 in 54 days on 16,384 GPUs is one in 50,700 (Llama 3, arXiv 2407.21783, 3.3.4)."""
    relative_speed: float = 1.0
    """Speed relative to what the model of speed, fitted on A100, makes of the figures above."""

    def __post_init__(self) -> None:
        check_least("nodes", self.nodes)
        check_least("gpus_per_node", self.gpus_per_node)
        for key in POSITIVE:
            if not 0 < getattr(self, key) < float("inf"):
                raise ValueError(f"cluster.{key}={getattr(self, key)} must be above 0")
        if not 0 <= self.reserve_gib < self.memory_gib:
            raise ValueError(f"cluster.reserve_gib={self.reserve_gib} must be at least 0 and below cluster.memory_gib")

    @property
    def devices(self) -> int:
        """All GPUs."""
        return self.nodes * self.gpus_per_node

    def ranks(self) -> int:
        """Return how many ranks a run has: one per GPU."""
        return self.devices

    @property
    def usable_bytes(self) -> int:
        """Bytes of a GPU that a rank may fill."""
        return int((self.memory_gib - self.reserve_gib) * 2**30)

    def plan(self, overrides: Sequence[str], folder: Path) -> Start:
        """Raise ValueError: hardware is not a way to start a run."""
        raise ValueError(
            "cluster: this describes hardware for pdpc estimate: start with cluster=slurm, hostfile or local"
        )


POSITIVE = (
    "peak_tflops",
    "memory_gib",
    "bandwidth_gb_s",
    "link_gb_s",
    "network_gbit_s",
    "disk_gb_s",
    "mtbf_gpu_hours",
    "relative_speed",
)


@dataclass(frozen=True)
class A100_80(Accelerators):  # named as in configs
    """A100 SXM with 80 GB."""


@dataclass(frozen=True)
class A100_40(Accelerators):
    """A100 SXM with 40 GB."""

    memory_gib: float = 39.4
    bandwidth_gb_s: float = 1555.0


@dataclass(frozen=True)
class A800_80(Accelerators):
    """A800 SXM with 80 GB: an A100 with NVLink at 400 instead of 600 GB/s."""

    link_gb_s: float = 200.0


@dataclass(frozen=True)
class H100_80(Accelerators):
    """H100 SXM with 80 GB; `relative_speed` is fitted to its published rows (benchmarks/estimate_speed.py)."""

    peak_tflops: float = 989.0
    bandwidth_gb_s: float = 3350.0
    link_gb_s: float = 450.0
    network_gbit_s: float = 3200.0
    relative_speed: float = 0.827


@dataclass(frozen=True)
class H800_80(H100_80):
    """H800 SXM with 80 GB: an H100 with NVLink at 400 instead of 900 GB/s."""

    link_gb_s: float = 200.0


@dataclass(frozen=True)
class H200_141(H100_80):
    """H200 SXM with 141 GB."""

    memory_gib: float = 139.8
    bandwidth_gb_s: float = 4800.0


CARDS: dict[str, type[Accelerators]] = {
    "a100_80": A100_80,
    "a100_40": A100_40,
    "a800_80": A800_80,
    "h100_80": H100_80,
    "h800_80": H800_80,
    "h200_141": H200_141,
}
"""Hardware by name."""

PLACES: dict[str, type[Cluster]] = {**CLUSTERS, **CARDS}
"""What `cluster=` of an estimate takes: hardware, or a cluster of `pdpc launch` together with `gpu=`."""


def hardware(where: Cluster, gpu: str | None) -> Accelerators:
    """Return the hardware of a cluster; `gpu` names the card of one of `pdpc launch`. Raises ValueError if unknown."""
    if isinstance(where, Accelerators):
        if gpu is not None:
            raise ValueError(f"gpu={gpu} has no effect: the cluster already names its GPUs; remove it")
        return where
    if gpu is None:
        raise ValueError(
            f"gpu has no value: a cluster of pdpc launch does not say which GPUs it has: add gpu= and one of "
            f"{', '.join(CARDS)}, or give hardware as cluster=a100_80"
        )
    if gpu not in CARDS:
        raise ValueError(f"gpu={gpu!r} is unknown: use one of {', '.join(CARDS)}")
    if isinstance(where, Slurm):
        return CARDS[gpu](nodes=where.nodes, gpus_per_node=where.gpus_per_node or GPUS_PER_NODE)
    if isinstance(where, Hostfile):
        names = sum(len(expand(text)) for text in where.hosts)
        return CARDS[gpu](nodes=max(1, names), gpus_per_node=where.gpus_per_node or GPUS_PER_NODE)
    assert isinstance(where, Local)
    return CARDS[gpu](gpus_per_node=where.gpus_per_node or GPUS_PER_NODE)
