"""The choices of a run's weights."""

from __future__ import annotations

WEIGHTS = ("last", "running")
"""The trained weights, or their running average."""


def check_choice(weights: str, average: int, prefix: str = "") -> None:
    """Raise ValueError for an invalid choice of weights; `prefix` begins the names of both settings."""
    if weights not in WEIGHTS:
        raise ValueError(f"{prefix}weights={weights!r} is unknown: use one of {', '.join(WEIGHTS)}")
    if average < 1:
        raise ValueError(f"{prefix}average={average} must be at least 1 checkpoint")
    if average > 1 and weights == "running":
        raise ValueError(
            f"{prefix}average={average} is a mean of trained weights: remove {prefix}weights=running, or "
            f"{prefix}average"
        )
