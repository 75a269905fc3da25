"""One line of an audit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """What was compared, and what came out."""

    name: str
    sound: bool | None
    """None: not made; `said` tells what it would need."""
    said: str
    """The figure, or what is wrong and where."""
