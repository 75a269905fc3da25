"""The hooks of a run, from its settings, in the order in which they are called."""

from __future__ import annotations

from pathlib import Path

from train.faults import armed
from train.hooks.averages import RunningAverage
from train.hooks.breakdown import Breakdown
from train.hooks.drills import Drills, LateDrills
from train.hooks.guards import Guard
from train.hooks.hook import Hook
from train.hooks.mean_score import MeanScore
from train.hooks.straggler import Straggler
from train.hooks.throughput import Throughput
from train.settings import TrainSettings


def hooks_of(settings: TrainSettings) -> list[Hook]:
    """Return the hooks of a run, the same on every rank; those that may skip an update come before those that count.

    The straggler's comes first: it measures a rank's work up to its next collective. Drills, if any are armed
    (`faults.arm`), come before and after all of them.
    """
    hooks: list[Hook] = []
    if settings.straggler.factor is not None:
        hooks.append(Straggler(settings.straggler))
    if settings.guards.finite or settings.guards.spike != "off":
        hooks.append(Guard(settings.guards, Path(settings.output)))
    hooks += [Throughput(settings), Breakdown(), MeanScore()]
    if settings.averaging.decay:
        hooks.append(RunningAverage(settings.averaging))
    if armed():
        hooks = [Drills(), *hooks, LateDrills()]
    names = [hook.name for hook in hooks]
    assert len(set(names)) == len(names), f"two hooks share a name: {names}"
    return hooks
