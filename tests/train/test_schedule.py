import pytest

from train.schedule import ScheduleSettings, learning_rate


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_it_warms_up_peaks_and_leaves_the_final_share(name):
    settings = ScheduleSettings(name=name, warmup_share=0.1, final_share=1 / 3)
    rates = [learning_rate(settings, 3e-3, step, 200) for step in range(200)]
    assert rates[0] == pytest.approx(3e-3 / 20)
    assert rates[:20] == sorted(rates[:20])
    assert max(rates) == rates[19] == rates[20] == pytest.approx(3e-3)
    assert rates[20:] == sorted(rates[20:], reverse=True)
    assert rates[-1] == pytest.approx(1e-3)


def test_constant_stays_and_a_run_of_one_step_has_the_peak():
    constant = ScheduleSettings(name="constant", warmup_share=0, final_share=1)
    assert {learning_rate(constant, 1.0, step, 9) for step in range(9)} == {1.0}
    assert learning_rate(ScheduleSettings(), 1.0, 0, 1) == 1.0


@pytest.mark.parametrize(
    "changes",
    [{"name": "warp"}, {"warmup_share": 2.0}, {"final_share": -0.1}, {"final_share": 0.5, "name": "constant"}],
)
def test_impossible_values_are_named(changes):
    key, value = next(iter(changes.items()))
    with pytest.raises(ValueError, match=rf"schedule\.{key}={value!r}"):
        ScheduleSettings(**changes)
