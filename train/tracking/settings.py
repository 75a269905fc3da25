"""Settings of the trackers."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.setting import FREE

NAMES = ("none", "wandb", "tensorboard", "wandb+tensorboard")
"""Names that a config may choose."""


@dataclass(frozen=True)
class TrackerSettings:
    """Where metrics go beside metrics.jsonl."""

    name: str = field(default="none", metadata=FREE)
    """wandb, tensorboard, wandb+tensorboard or none."""
    project: str = field(default="pdpc", metadata=FREE)
    """W&B project."""
    entity: str | None = field(default=None, metadata=FREE)
    """W&B user or team; null: the key's own."""
    group: str | None = field(default=None, metadata=FREE)
    """W&B group: the arms of one comparison share it."""
    tags: list[str] = field(default_factory=list, metadata=FREE)
    """W&B tags."""
    queue: int = field(default=4096, metadata=FREE)
    """Records that wait for a tracker that is out of reach; later ones are dropped, counted, and in metrics.jsonl."""
    start_s: float = field(default=30.0, metadata=FREE)
    """Longest time of one attempt to reach W&B, in its own thread."""
    retry_s: float = field(default=60.0, metadata=FREE)
    """Pause after an attempt that failed; it doubles up to ten times itself."""
    finish_s: float = field(default=10.0, metadata=FREE)
    """Longest time that the end of a run waits for what is still to be sent."""

    def __post_init__(self) -> None:
        if self.name not in NAMES:
            raise ValueError(f"tracker.name={self.name!r} is unknown: use one of {list(NAMES)}")
        if self.queue < 1:
            raise ValueError(f"tracker.queue={self.queue} must be at least 1")
        for key in ("start_s", "retry_s"):
            if not getattr(self, key) > 0:
                raise ValueError(f"tracker.{key}={getattr(self, key)} must be above 0 seconds")
        if self.finish_s < 0:
            raise ValueError(f"tracker.finish_s={self.finish_s} must not be negative")
