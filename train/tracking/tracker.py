"""The tracker interface used by the training loop, and the null tracker."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from train.config.secrets import without_secrets
from train.tracking.background import Background, Destination, Trackers
from train.tracking.metrics import Record
from train.tracking.settings import TRACKERS, TrackerSettings


class Tracker(Protocol):
    """A place to log metrics to."""

    def log(self, record: Record) -> None:
        """Log one record of metrics.jsonl; never waits."""

    def finish(self) -> None:
        """Flush and close, within a time limit."""


class NullTracker:
    """Logs nothing."""

    def log(self, record: Record) -> None:
        """Drop the record: metrics.jsonl has it."""

    def finish(self) -> None:
        """Do nothing."""


def check_tracker(settings: TrackerSettings) -> None:
    """Raise ValueError when a tracker needs a package that is not installed."""
    if "tensorboard" in settings.name and find_spec("tensorboard") is None:
        raise ValueError(
            f"tracker.name={settings.name!r} needs the package tensorboard: pip install 'pdpc[tensorboard]', or use "
            "tracker=none"
        )


def start_tracker(
    settings: TrackerSettings, folder: Path, name: str, config: Mapping[str, Any], resume_step: int = 0
) -> Tracker:
    """Return the tracker for the settings; it returns before any connection is made.

    `folder` is the RUN, `name` its arm; anything already shown for steps after `resume_step` is from an earlier
    attempt that was cut off.
    """
    destinations: list[Destination] = []
    for wanted in settings.names:
        module, _, kind = TRACKERS[wanted].partition(":")
        of = getattr(import_module(module), kind).of
        destinations.append(of(settings, folder, name, without_keys(config), resume_step))
    if not destinations:
        return NullTracker()
    return Trackers([Background(one, settings.queue, settings.retry_s) for one in destinations], settings.finish_s)


def without_keys(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with any secrets in its values masked."""

    def clean(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: clean(part) for name, part in value.items()}
        if isinstance(value, list | tuple):
            return [clean(part) for part in value]
        return without_secrets(value) if isinstance(value, str) else value

    return {name: clean(value) for name, value in config.items()}
