"""Ratios, their spread, the order of the sides, and when a check is held."""

import pytest

from benchmarks.rounds import Check, Spread, column, interleave, ratios, spread, turns


def test_spread_is_median_and_ends() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert spread([4.0, 1.0, 2.0, 3.0]) == Spread(2.5, 1.0, 4.0)
    assert spread([7]) == Spread(7.0, 7.0, 7.0)
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_ratios_are_taken_within_a_round() -> None:
    # the machine was three times slower in round two, which does not affect the ratio
    assert ratios([2.0, 6.0], [1.0, 3.0]) == [2.0, 2.0]
    assert spread(ratios([2.0, 6.0, 9.0], [1.0, 2.0, 3.0])) == Spread(3.0, 2.0, 3.0)


@pytest.mark.parametrize(("upper", "lower"), [([1.0], [1.0, 2.0]), ([1.0], [0.0]), ([-1.0], [1.0])])
def test_ratios_of_invalid_values_are_refused(upper: list[float], lower: list[float]) -> None:
    with pytest.raises(ValueError, match="ratios: "):
        ratios(upper, lower)


def test_every_side_has_every_position() -> None:
    assert turns(["a", "b", "c"], 3) == [["a", "b", "c"], ["b", "c", "a"], ["c", "a", "b"]]


def test_interleave_measures_round_by_round() -> None:
    called: list[str] = []
    lines: list[str] = []

    def measure(side: str) -> dict[str, float]:
        called.append(side)
        return {"seconds": float(len(called)), "peak_bytes": 1 << 20}

    measured = interleave(["a", "b"], 3, measure, lines.append)
    assert called == ["a", "b", "b", "a", "a", "b"]
    assert column(measured, "a", "seconds") == [1.0, 4.0, 5.0]
    assert column(measured, "b", "seconds") == [2.0, 3.0, 6.0]
    assert len(lines) == 6
    assert lines[0].startswith("round 1/3  a")


def test_a_check_holds_at_its_target() -> None:
    assert Check("time", 2.0, 2.0, "at most").held
    assert not Check("time", 2.1, 2.0, "at most").held
    assert Check("speed", 8.0, 8.0, "at least").held
    assert not Check("speed", 7.9, 8.0, "at least").held
