"""Loss spikes of 8 sigma in series of 100,000 losses with heavy noise and slow drift (T9).

Passed: at least 99 % of the spikes of a series are found, with at most one false alarm. An attempt is a series.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.torture.campaign import Tally, case_seeds
from train.hooks.spikes import SpikeDetector

FULL = 10
STEPS = 100_000
WINDOW = 128
HEIGHT = 8.0


def run(count: int, seed: int, work: Path) -> Tally:
    """Run the detector on `count` series."""
    tally = Tally("spikes", seed=seed)
    made = found = false = 0
    for case in case_seeds(seed, count):
        one = series(case)
        made, found, false = made + one[0], found + one[1], false + one[2]
        good = one[1] >= 0.99 * one[0] and one[2] <= 1
        tally.add(case, None if good else f"{one[1]} of {one[0]} spikes found, {one[2]} false alarms")
    tally.notes.append(f"{found} of {made} spikes found, {false} false alarms in {count * STEPS:,} losses")
    return tally


def losses_of(steps: int, seed: int) -> list[float]:
    """Return losses that drift from 6.2 to 2.2 with normal noise, which is 1.5 times as wide in 1 of 20 steps."""
    rng = np.random.default_rng(seed)
    sigma = np.where(rng.random(steps) < 0.05, 0.045, 0.03)
    drift = 2.2 + 4.0 * np.exp(-np.arange(steps) / (steps / 4))
    values: list[float] = (drift + rng.normal(0.0, sigma)).tolist()
    return values


def series(seed: int) -> tuple[int, int, int]:
    """Return the numbers of spikes in a series, of spikes found, and of false alarms.

    A spike is HEIGHT standard deviations above the mean of the last 128 losses without spikes.
    """
    rng = np.random.default_rng(seed + 1)
    places = np.cumsum(rng.integers(20, 1000, STEPS // 500))
    at = set(places[(places > WINDOW) & (places < STEPS)].tolist())
    detector, recent = SpikeDetector(6.0, WINDOW), np.zeros(WINDOW)
    found = false = 0
    for step, loss in enumerate(losses_of(STEPS, seed)):
        if step in at:
            found += detector.add(float(recent.mean() + HEIGHT * recent.std(ddof=1)))
        else:
            false += detector.add(loss)
            recent[step % WINDOW] = loss
    return len(at), found, false
