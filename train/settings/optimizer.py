"""Settings of the optimizer, and of what ZeRO splits or offloads."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.setting import BINDS, FREE

PRECISIONS = ("bf16", "fp32")
OFFLOAD_DEVICES = ("none", "cpu", "nvme")


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) and clipping."""

    lr: float = field(default=3e-4, metadata=BINDS)
    """Peak learning rate."""
    beta1: float = field(default=0.9, metadata=BINDS)
    """Decay of the first moment."""
    beta2: float = field(default=0.95, metadata=BINDS)
    """Decay of the second moment."""
    eps: float = field(default=1e-8, metadata=BINDS)
    """Added to the root of the second moment."""
    weight_decay: float = field(default=0.1, metadata=BINDS)
    """Decoupled decay of matrices; norms are not decayed."""
    clip_norm: float = field(default=1.0, metadata=BINDS)
    """Largest global norm of the gradient; 0 switches clipping off."""

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"optimizer.lr={self.lr} must be above 0")
        for key in ("beta1", "beta2"):
            if not 0 <= getattr(self, key) < 1:
                raise ValueError(f"optimizer.{key}={getattr(self, key)} must lie in [0, 1)")
        for key in ("eps", "weight_decay", "clip_norm"):
            if getattr(self, key) < 0:
                raise ValueError(f"optimizer.{key}={getattr(self, key)} must not be negative")


@dataclass(frozen=True)
class ZeroSettings:
    """DeepSpeed's ZeRO: what is split over the ranks, and what is kept outside the device's memory."""

    stage: int = field(default=1, metadata=FREE)
    """0: nothing is split; 1: the optimizer's states; 2: the gradients too; 3: the parameters too."""
    overlap_comm: bool = field(default=True, metadata=FREE)
    """Reduce gradients while the backward pass runs (on GPUs)."""
    bucket_mb: int = field(default=500, metadata=FREE)
    """Size of communication buckets in MB; DeepSpeed may hold two of them (overlap_comm)."""
    reduce_in: str = field(default="fp32", metadata=BINDS)
    """Type in which gradients are summed over the ranks: fp32, or bf16 for half the traffic."""
    offload_optimizer: str = field(default="none", metadata=FREE)
    """Where master weights and moments live: none (the device); cpu, where AdamW then runs, stage 1 or more; nvme, from
    where a sub-group at a time is brought to the CPU, stage 3."""
    offload_param: str = field(default="none", metadata=FREE)
    """Where parameters wait to be used: none (the device), cpu or nvme; stage 3."""
    nvme_path: str | None = field(default=None, metadata=FREE)
    """Folder on a fast local disk of every node, for nvme; a run leaves nothing in it."""
    nvme_requests: int = field(default=8, metadata=FREE)
    """Reads or writes of 1 MiB that a rank has under way at once, for nvme."""
    sub_group_size: int = field(default=1_000_000_000, metadata=FREE)
    """Stage 3: elements of a rank that are updated together. With offload_optimizer=nvme it needs 16 bytes of host
    memory for each, or for each of the largest parameter's."""
    pin_memory: bool = field(default=True, metadata=FREE)
    """Pin the host memory of what is offloaded."""

    def __post_init__(self) -> None:
        if self.stage not in (0, 1, 2, 3):
            raise ValueError(f"zero.stage={self.stage} is not supported: use 0, 1, 2 or 3")
        if self.bucket_mb < 1:
            raise ValueError(f"zero.bucket_mb={self.bucket_mb} must be at least 1")
        if self.reduce_in not in PRECISIONS:
            raise ValueError(f"zero.reduce_in={self.reduce_in!r} is unknown: use one of {list(PRECISIONS)}")
        for key in ("nvme_requests", "sub_group_size"):
            if getattr(self, key) < 1:
                raise ValueError(f"zero.{key}={getattr(self, key)} must be at least 1")
        for key, least in (("offload_optimizer", 1), ("offload_param", 3)):
            device = getattr(self, key)
            if device not in OFFLOAD_DEVICES:
                raise ValueError(f"zero.{key}={device!r} is unknown: use one of {list(OFFLOAD_DEVICES)}")
            needed = 3 if device == "nvme" else least
            if device != "none" and self.stage < needed:
                raise ValueError(f"zero.{key}={device} needs zero.stage={needed}{' or more' if needed < 3 else ''}")
            if device == "nvme" and not self.nvme_path:
                raise ValueError(f"zero.{key}=nvme needs zero.nvme_path: a folder on a fast local disk")

    @property
    def uses_nvme(self) -> bool:
        """Does anything lie on the fast disk?"""
        return "nvme" in (self.offload_optimizer, self.offload_param)
