"""Named points of a chunk's writing, where tests of kills stop a worker."""

from __future__ import annotations


def mark(point: str) -> None:
    """Pass a point."""
