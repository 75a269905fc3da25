"""The choices of a run's weights."""

from __future__ import annotations

WEIGHTS = ("last", "running")
"""The trained weights, or their running average."""


def check_choice(weights: str, average: int) -> None:
    """Raise ValueError for an invalid choice of weights."""
    if weights not in WEIGHTS:
        raise ValueError(f"weights={weights!r} is unknown: use one of {', '.join(WEIGHTS)}")
    if average < 1:
        raise ValueError(f"average={average} must be at least 1 checkpoint")
    if average > 1 and weights == "running":
        raise ValueError(f"average={average} is a mean of trained weights: remove weights=running, or average")
