"""How a decoder runs: kernels, recomputation, compilation. Results change only by rounding."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.setting import FREE

KERNELS = ("auto", "plain", "liger")
CHECKPOINTING = ("none", "selective", "every", "full")


@dataclass(frozen=True)
class ExecutionSettings:
    """How a decoder runs; may change between two attempts of a run."""

    kernels: str = field(default="auto", metadata=FREE)
    """plain (PyTorch), liger (Triton kernels of liger-kernel, CUDA only), or auto: liger where it can run."""
    checkpointing: str = field(default="none", metadata=FREE)
    """Activation checkpointing: none; selective (recompute everything but attention); every (recompute one whole block
    in `checkpoint_every`); full (recompute every block)."""
    checkpoint_every: int = field(default=2, metadata=FREE)
    """With checkpointing=every: recompute one block in this many, starting with the first."""
    compile: bool = field(default=False, metadata=FREE)
    """torch.compile the parts of a block before and after attention: slower start, faster steps."""

    def __post_init__(self) -> None:
        for key, known in (("kernels", KERNELS), ("checkpointing", CHECKPOINTING)):
            if getattr(self, key) not in known:
                raise ValueError(f"execution.{key}={getattr(self, key)!r} is unknown: use one of {', '.join(known)}")
        if self.checkpoint_every < 1:
            raise ValueError(f"execution.checkpoint_every={self.checkpoint_every} must be at least 1")
