"""Rounds: each measures every side once, so that disturbances hit all sides; ratios are taken within a round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

ENOUGH_ROUNDS = 5


@dataclass(frozen=True)
class Spread:
    """The median of a few values and their range."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Check:
    """A measured value and its target."""

    name: str
    value: float
    target: float
    sense: Literal["at most", "at least"]
    unit: str = ""

    @property
    def held(self) -> bool:
        """Return whether the value meets the target."""
        return self.value <= self.target if self.sense == "at most" else self.value >= self.target


def spread(values: Sequence[float]) -> Spread:
    """Return median, smallest and largest of at least one value."""
    if not values:
        raise ValueError("spread: there are no values")
    return Spread(float(median(values)), float(min(values)), float(max(values)))


def ratios(upper: Sequence[float], lower: Sequence[float]) -> list[float]:
    """Return upper / lower per round. Raises ValueError for unequal numbers of rounds or a value of zero or less."""
    if len(upper) != len(lower):
        raise ValueError(f"ratios: {len(upper)} rounds of one side, {len(lower)} of the other")
    if any(value <= 0 for value in (*upper, *lower)):
        raise ValueError(f"ratios: values must be positive, got {list(upper)} and {list(lower)}")
    return [a / b for a, b in zip(upper, lower, strict=True)]


def turns(sides: Sequence[str], rounds: int) -> list[list[str]]:
    """Return the order of the sides in each round: rotated by one, so that every side has every position."""
    return [[sides[(turn + number) % len(sides)] for turn in range(len(sides))] for number in range(rounds)]


def interleave(
    sides: Sequence[str], rounds: int, measure: Callable[[str], dict[str, Any]], say: Callable[[str], None]
) -> dict[str, list[dict[str, Any]]]:
    """Measure every side once per round; return each side's facts, one mapping per round. `say` prints progress."""
    measured: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for number, order in enumerate(turns(sides, rounds), start=1):
        for side in order:
            facts = measure(side)
            measured[side].append(facts)
            say(f"round {number}/{rounds}  {side:<16} {facts['seconds']:.4g} s  {facts['peak_bytes'] >> 20:,} MiB")
    return measured


def column(measured: Mapping[str, Sequence[Mapping[str, Any]]], side: str, name: str) -> list[float]:
    """Return one fact of a side, one value per round."""
    return [float(facts[name]) for facts in measured[side]]
