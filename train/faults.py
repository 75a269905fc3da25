"""Fault points: named places where a test or a drill lets the program fail. Inert here."""

from __future__ import annotations


def fault(name: str) -> None:
    """Mark a point."""
