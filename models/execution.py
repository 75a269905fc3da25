"""How a decoder runs: kernels, recomputation, compilation. What it computes changes by rounding alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.setting import FREE

KERNELS = ("auto", "plain", "liger")
CHECKPOINTING = ("none", "selective", "every", "full")


@dataclass(frozen=True)
class ExecutionSettings:
    """How a decoder runs; may change between two lives of a run."""

    kernels: str = field(default="auto", metadata=FREE)
    """plain (PyTorch), liger (Triton kernels of liger-kernel, CUDA alone), or auto: liger where it can run."""
    checkpointing: str = field(default="none", metadata=FREE)
    """Activations that are recomputed in the backward pass: none; selective (all but what attention keeps, which is not
    run again); every (whole blocks, one in `checkpoint_every`); full (every block)."""
    checkpoint_every: int = field(default=2, metadata=FREE)
    """With checkpointing=every: the first of so many blocks is recomputed."""
    compile: bool = field(default=False, metadata=FREE)
    """Compile the parts of a block before and after attention (torch.compile): slow to start, faster steps."""

    def __post_init__(self) -> None:
        for key, known in (("kernels", KERNELS), ("checkpointing", CHECKPOINTING)):
            if getattr(self, key) not in known:
                raise ValueError(f"execution.{key}={getattr(self, key)!r} is unknown: use one of {', '.join(known)}")
        if self.checkpoint_every < 1:
            raise ValueError(f"execution.checkpoint_every={self.checkpoint_every} must be at least 1")
