"""What a run is doing: its recorded status, or that it ended without one."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curriculum.artifact.lock import is_held
from train.records.layout import LOCK

RUNNING = "running"
"""Status in run.json while an attempt lasts; a killed one leaves it there."""


def state_of(run: Path, facts: Mapping[str, Any]) -> str:
    """Return the status of a run, given its run.json; the lock says whether one that is marked as running still is."""
    status = str(facts.get("status", "unknown"))
    if status != RUNNING:
        return status
    held = is_held(run / LOCK)
    if held is None:
        return "running, or ended without a record (its lock cannot be tested from here)"
    return RUNNING if held else "not running (it was killed or failed: its lock is free)"
