"""Settings of the optimizer and of ZeRO partitioning and offloading."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.setting import BINDS, FREE

PRECISIONS = ("bf16", "fp32")
OFFLOAD_DEVICES = ("none", "cpu", "nvme")


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) and gradient clipping."""

    lr: float = field(default=3e-4, metadata=BINDS)
    """Peak learning rate."""
    beta1: float = field(default=0.9, metadata=BINDS)
    """Decay of the first moment."""
    beta2: float = field(default=0.95, metadata=BINDS)
    """Decay of the second moment."""
    eps: float = field(default=1e-8, metadata=BINDS)
    """Added to the square root of the second moment."""
    weight_decay: float = field(default=0.1, metadata=BINDS)
    """Decoupled weight decay of matrices; norm weights are not decayed."""
    clip_norm: float = field(default=1.0, metadata=BINDS)
    """Maximum global gradient norm; 0 disables clipping."""

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
    """DeepSpeed ZeRO: what is partitioned across ranks and what is offloaded from device memory."""

    stage: int = field(default=1, metadata=FREE)
    """0: nothing is partitioned; 1: optimizer states; 2: gradients as well; 3: parameters as well."""
    overlap_comm: bool = field(default=True, metadata=FREE)
    """Reduce gradients during the backward pass (GPUs only)."""
    bucket_mb: int = field(default=500, metadata=FREE)
    """Communication bucket size in MB; with overlap_comm DeepSpeed may hold two buckets."""
    reduce_in: str = field(default="fp32", metadata=BINDS)
    """Dtype in which gradients are reduced across ranks: fp32, or bf16 for half the traffic."""
    offload_optimizer: str = field(default="none", metadata=FREE)
    """Where master weights and moments live: none (on the device), cpu (AdamW then runs on the CPU; stage 1 or higher)
    or nvme (loaded to the CPU one sub-group at a time; stage 3)."""
    offload_param: str = field(default="none", metadata=FREE)
    """Where parameters live between uses: none (on the device), cpu or nvme; cpu and nvme need stage 3."""
    nvme_path: str | None = field(default=None, metadata=FREE)
    """nvme only: folder on a fast local disk of every node; a run leaves nothing behind in it."""
    nvme_requests: int = field(default=8, metadata=FREE)
    """nvme only: 1 MiB reads or writes that a rank keeps in flight."""
    sub_group_size: int = field(default=1_000_000_000, metadata=FREE)
    """Stage 3: elements of a rank that are updated together. With offload_optimizer=nvme, 16 bytes of host memory per
    element (at least those of the largest parameter)."""
    pin_memory: bool = field(default=True, metadata=FREE)
    """Pin host memory used for offloading."""

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
                raise ValueError(f"zero.{key}={device} needs zero.stage={needed}{' or higher' if needed < 3 else ''}")
            if device == "nvme" and not self.nvme_path:
                raise ValueError(f"zero.{key}=nvme needs zero.nvme_path: a folder on a fast local disk")

    @property
    def uses_nvme(self) -> bool:
        """Return whether anything is offloaded to NVMe."""
        return "nvme" in (self.offload_optimizer, self.offload_param)
