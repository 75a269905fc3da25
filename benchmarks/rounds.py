"""Rounds: every side once a round, so that what disturbs the machine disturbs all of them; ratios within a round."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

ENOUGH_ROUNDS = 5


@dataclass(frozen=True)
class Spread:
    """The median of a few values and how far they lie apart."""

    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Check:
    """What a benchmark decides: a measured value beside its target."""

    name: str
    value: float
    target: float
    sense: Literal["at most", "at least"]
    unit: str = ""

    @property
    def held(self) -> bool:
        """Tell whether the value keeps the target."""
        return self.value <= self.target if self.sense == "at most" else self.value >= self.target


def spread(values: Sequence[float]) -> Spread:
    """Return median, smallest and largest of at least one value."""
    if not values:
        raise ValueError("spread: there are no values")
    return Spread(float(median(values)), float(min(values)), float(max(values)))


def ratios(upper: Sequence[float], lower: Sequence[float]) -> list[float]:
    """Return upper / lower round by round. Raises ValueError for sides of unequal rounds or a value of zero or less."""
    if len(upper) != len(lower):
        raise ValueError(f"ratios: {len(upper)} rounds of one side, {len(lower)} of the other")
    if any(value <= 0 for value in (*upper, *lower)):
        raise ValueError(f"ratios: values must be above zero, got {list(upper)} and {list(lower)}")
    return [a / b for a, b in zip(upper, lower, strict=True)]


def turns(sides: Sequence[str], rounds: int) -> list[list[str]]:
    """Return the sides in the order in which each round measures them: whoever was first goes last next time."""
    return [[sides[(turn + number) % len(sides)] for turn in range(len(sides))] for number in range(rounds)]


def interleave(
    sides: Sequence[str], rounds: int, measure: Callable[[str], dict[str, Any]], say: Callable[[str], None]
) -> dict[str, list[dict[str, Any]]]:
    """Measure every side once a round; return each side's facts, one mapping a round. `say` hears the progress."""
    measured: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for number, order in enumerate(turns(sides, rounds), start=1):
        for side in order:
            facts = measure(side)
            measured[side].append(facts)
            say(f"round {number}/{rounds}  {side:<16} {facts['seconds']:.4g} s  {facts['peak_bytes'] >> 20:,} MiB")
    return measured


def column(measured: Mapping[str, Sequence[Mapping[str, Any]]], side: str, name: str) -> list[float]:
    """Return one fact of a side, one value a round."""
    return [float(facts[name]) for facts in measured[side]]
