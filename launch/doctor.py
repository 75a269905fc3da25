"""`pdpc doctor`: what can be looked into on this machine. For now the fault points of a drill."""

from __future__ import annotations

from dataclasses import dataclass

from train.faults import listed


@dataclass(frozen=True)
class DoctorSettings:
    """What `pdpc doctor` is told."""

    faults: bool = False
    """List the points at which PDPC_FAULT can let a run fail, for a drill."""

    def __post_init__(self) -> None:
        if not self.faults:
            raise ValueError("faults=false: there is nothing else to look into yet; use pdpc doctor --faults")


def run(settings: DoctorSettings) -> None:
    """Print what was asked for."""
    if settings.faults:
        print("\n".join(listed()))
