"""Settings of LoRA."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from models.config import LORA_TARGETS, Lora
from models.setting import BINDS, fixed

SHAPE = fixed("the checkpoint's adapters have another shape")


@dataclass(frozen=True)
class LoraSettings:
    """Train adapters next to frozen weights (LoRA, arXiv 2106.09685); needs `init`."""

    rank: int | None = field(default=None, metadata=SHAPE)
    """Rank of the adapters; null: all weights are trained, without adapters."""
    alpha: float = field(default=16.0, metadata=BINDS)
    """The adapters' output is multiplied by alpha / rank."""
    targets: list[str] = field(default_factory=lambda: ["q", "k", "v", "o"], metadata=SHAPE)
    """Matrices of every block with an adapter: some of q, k, v, o, gate, up, down."""
    adapter: str | None = field(default=None, metadata=BINDS)
    """Folder of an adapter in peft's format to start from; null: a new one that changes nothing."""

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise ValueError(f"lora.rank={self.rank} must be at least 1, or null to train all weights")
        if not self.alpha > 0:
            raise ValueError(f"lora.alpha={self.alpha} must be above 0")
        unknown = [name for name in self.targets if name not in LORA_TARGETS]
        if unknown or not self.targets or len(set(self.targets)) != len(self.targets):
            raise ValueError(f"lora.targets={self.targets} must be some of {', '.join(LORA_TARGETS)}, each once")

    def check(self, init: str | None, excluded: Mapping[str, bool]) -> None:
        """Raise ValueError without weights to adapt, or if a setting that excludes adapters is set."""
        if self.rank is None:
            if self.adapter is not None:
                raise ValueError(f"lora.adapter={self.adapter} has no effect without lora.rank: add its rank")
            return
        if init is None:
            raise ValueError(f"lora.rank={self.rank} adapts weights that exist: add init=FOLDER")
        for name, given in excluded.items():
            if given:
                raise ValueError(f"{name} is not supported with lora.rank={self.rank}: leave one of them out")

    def adapters(self) -> Lora | None:
        """Return the adapters; None: none."""
        return None if self.rank is None else Lora(self.rank, self.alpha, tuple(self.targets))
