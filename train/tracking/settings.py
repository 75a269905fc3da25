"""Settings of the trackers."""

from __future__ import annotations

from dataclasses import dataclass, field

from models.setting import FREE

TRACKERS = {
    "wandb": "train.tracking.wandb_run:WandbRun",
    "tensorboard": "train.tracking.tensorboard:EventFile",
}
"""Module and class of every tracker by name, imported when a run needs it.

The class is a `Destination` with a class method `of(settings, folder, name, config, resume_step)`: the RUN, its arm,
its config without secrets, and the step that it resumes from.
"""


@dataclass(frozen=True)
class TrackerSettings:
    """Where metrics are logged in addition to metrics.jsonl."""

    name: str = field(default="none", metadata=FREE)
    """wandb, tensorboard, several joined by "+" (wandb+tensorboard), or none."""
    project: str = field(default="pdpc", metadata=FREE)
    """W&B project."""
    entity: str | None = field(default=None, metadata=FREE)
    """W&B user or team; null: the default entity of the API key."""
    group: str | None = field(default=None, metadata=FREE)
    """W&B group, shared by the arms of a comparison."""
    tags: list[str] = field(default_factory=list, metadata=FREE)
    """W&B tags."""
    queue: int = field(default=4096, metadata=FREE)
    """Records queued while a tracker is unreachable; further ones are dropped and counted (metrics.jsonl has them)."""
    start_s: float = field(default=30.0, metadata=FREE)
    """Timeout of one attempt to reach W&B (in a background thread), seconds."""
    retry_s: float = field(default=60.0, metadata=FREE)
    """Pause after a failed attempt, seconds; it doubles up to ten times this value."""
    finish_s: float = field(default=10.0, metadata=FREE)
    """How long the end of a run waits for unsent records, seconds."""

    def __post_init__(self) -> None:
        if not set(self.names) <= set(TRACKERS) or len(set(self.names)) < len(self.names):
            known = ", ".join(TRACKERS)
            raise ValueError(f"tracker.name={self.name!r} is unknown: use one of none, {known}, or several joined by +")
        if self.queue < 1:
            raise ValueError(f"tracker.queue={self.queue} must be at least 1")
        for key in ("start_s", "retry_s"):
            if not getattr(self, key) > 0:
                raise ValueError(f"tracker.{key}={getattr(self, key)} must be above 0 seconds")
        if self.finish_s < 0:
            raise ValueError(f"tracker.finish_s={self.finish_s} must not be negative")

    @property
    def names(self) -> list[str]:
        """The trackers that are wanted, by name."""
        return [] if self.name == "none" else self.name.split("+")
