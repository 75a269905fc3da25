"""Verdicts in words: on a difference and its interval, and after correction for the number of measures."""

from __future__ import annotations

from collections.abc import Sequence

from train.report.intervals import Interval
from train.report.measures import Measure

UNDECIDED = "no significant difference"
SUGGESTIVE = "suggestive"
"""The interval excludes zero, but among so many measures one does by chance."""
NO_VERDICT = "no verdict"
"""The interval, if there is one, is about these runs and not about the order."""
NO_ERROR_BAR = "no error bar"
VERDICTS = ("better", "worse", SUGGESTIVE, UNDECIDED, "equal", NO_VERDICT, NO_ERROR_BAR)
LEVEL = 0.05


def verdict(measure: Measure, difference: float, found: Interval | None, withheld: str = "") -> str:
    """Return the verdict on a difference; one that is too small to show in the written numbers is `equal`.

    `withheld`: why there can be no verdict on the order; empty if there can.
    """
    visible = abs(difference) >= measure.resolution
    wide = found is not None and found.high - found.low > measure.resolution
    if not visible and not (wide and (withheld or _includes_zero(found))):
        return "equal"
    if found is None:
        return NO_ERROR_BAR
    if withheld:
        return NO_VERDICT
    if _includes_zero(found):
        return UNDECIDED
    return "better" if (difference < 0) == measure.lower_is_better else "worse"


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm, 1979): any of them below 0.05 is wrong in 5 % of the cases."""
    count = len(p_values)
    result = [1.0] * count
    largest = 0.0
    for rank, place in enumerate(sorted(range(count), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (count - rank) * p_values[place]))
        result[place] = largest
    return result


def _includes_zero(found: Interval | None) -> bool:
    return found is not None and found.low <= 0 <= found.high
