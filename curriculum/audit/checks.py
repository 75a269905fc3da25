"""One check of an audit."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """What was compared, and the result."""

    name: str
    sound: bool | None
    """None: not run; `said` names what it would need."""
    said: str
    """The figure, or what is wrong and where."""
