"""Settings of the trackers."""

from __future__ import annotations

from dataclasses import dataclass, field

NAMES = ("none", "wandb", "tensorboard", "wandb+tensorboard")
"""Valid values of `tracker.name`."""


@dataclass(frozen=True)
class TrackerSettings:
    """Where metrics are logged in addition to metrics.jsonl."""

    name: str = "none"
    """wandb, tensorboard, wandb+tensorboard or none."""
    project: str = "pdpc"
    """W&B project."""
    entity: str | None = None
    """W&B user or team; null: the default entity of the API key."""
    group: str | None = None
    """W&B group, shared by the arms of a comparison."""
    tags: list[str] = field(default_factory=list)
    """W&B tags."""
    queue: int = 4096
    """Records queued while a tracker is unreachable; further ones are dropped and counted (metrics.jsonl has them)."""
    start_s: float = 30.0
    """Timeout of one attempt to reach W&B (in a background thread), seconds."""
    retry_s: float = 60.0
    """Pause after a failed attempt, seconds; it doubles up to ten times this value."""
    finish_s: float = 10.0
    """How long the end of a run waits for unsent records, seconds."""

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
