"""The time of a step outside DeepSpeed's calls: intervals between steps minus the time of the calls."""

import pytest

from benchmarks.step_overhead import WARM_UP, Clock, _options


def test_the_overhead_is_the_step_minus_its_calls():
    clock = Clock()
    clock.ends = [(10.0 + step, 0.75 * step) for step in range(WARM_UP + 4)]
    facts = clock.facts(3)
    assert facts["seconds"] == pytest.approx(1.0)
    assert facts["outside_s"] == facts["outside_mean_s"] == pytest.approx(0.25)
    with pytest.raises(AssertionError, match="steps were taken"):
        clock.facts(4)


def test_timed_calls_return_the_same_values():
    clock = Clock()
    assert clock.around(lambda a, b: a + b, ends_step=True)(1, b=2) == 3
    assert len(clock.ends) == 1
    assert 0 <= clock.inside_s == clock.ends[0][1]


def test_it_has_a_command_line():
    assert _options(["--zero-stage", "3", "--steps", "2"]).zero_stage == 3
