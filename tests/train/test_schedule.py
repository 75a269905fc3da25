"""Learning rate schedules, and the warning about orders whose score rises while the rate decays."""

import re

import pytest

from curriculum.arrange import arrange
from curriculum.preference import Frame, Pdpc, Shuffled, Sorted
from train.schedule import Schedule, ScheduleSettings, score_rise, wasted_rise


def rates(steps, peak=1.0, tokens_per_step=100, **settings):
    schedule = Schedule.of(ScheduleSettings(**settings), peak, steps, tokens_per_step)
    return [schedule(step) for step in range(steps)]


@pytest.mark.parametrize("name", ["cosine", "linear"])
def test_it_warms_up_to_the_peak_and_decays_to_the_final_share(name):
    found = rates(200, 3e-3, name=name, warmup_share=0.1, final_share=1 / 3)
    assert found[0] == pytest.approx(3e-3 / 20)
    assert found[:20] == sorted(found[:20])
    assert max(found) == found[19] == found[20] == pytest.approx(3e-3)
    assert found[20:] == sorted(found[20:], reverse=True)
    assert found[-1] == pytest.approx(1e-3)


def test_constant_stays_constant_and_a_run_of_one_step_has_the_peak():
    assert set(rates(9, name="constant", warmup_share=0, final_share=1)) == {1.0}
    assert rates(1) == [1.0]


@pytest.mark.parametrize(
    ("decay", "middle"), [("linear", 0.5), ("cosine", 0.5), ("sqrt", 1 - 0.5**0.5)], ids=["linear", "cosine", "sqrt"]
)
def test_wsd_stays_at_the_peak_and_decays_over_its_last_share(decay, middle):
    found = rates(100, name="wsd", warmup_steps=10, decay_share=0.4, decay=decay, final_share=0.2)
    assert found[9:60] == [1.0] * 51
    assert found[60] < 1.0
    assert found[60:] == sorted(found[60:], reverse=True)
    assert found[79] == pytest.approx(0.2 + 0.8 * middle)
    assert found[-1] == pytest.approx(0.2)


def test_wsd_without_a_decay_is_constant():
    assert rates(50, name="wsd", decay_share=0.0) == rates(50, name="constant", final_share=1.0)


def test_warm_up_as_a_share_in_steps_or_in_tokens_is_the_same():
    by_share = rates(100, warmup_share=0.2)
    assert by_share == rates(100, warmup_steps=20) == rates(100, warmup_tokens=1901) == rates(100, warmup_tokens=2000)
    assert by_share != rates(100, warmup_tokens=2001)
    assert rates(100) == rates(100, warmup_share=0.02)
    assert rates(100, warmup_steps=0)[0] == 1.0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "warp"}, "schedule.name='warp' is unknown: use one of ['wsd', 'cosine', 'linear', 'constant']"),
        ({"warmup_share": 2.0}, "schedule.warmup_share=2.0 must lie in [0, 1]"),
        ({"final_share": -0.1}, "schedule.final_share=-0.1 must lie in [0, 1]"),
        ({"final_share": 0.5, "name": "constant"}, "schedule.final_share=0.5 does not match a constant rate"),
        ({"warmup_steps": -1}, "schedule.warmup_steps=-1 must not be negative"),
        ({"warmup_share": 0.1, "warmup_steps": 5}, "schedule.warmup_share=0.1 and schedule.warmup_steps=5 both set"),
        ({"warmup_tokens": 9, "warmup_steps": 5}, "schedule.warmup_steps=5 and schedule.warmup_tokens=9 both set"),
        ({"decay": "sqrt"}, "schedule.decay='sqrt' has no effect with cosine"),
        ({"name": "linear", "decay_share": 0.1}, "schedule.decay_share=0.1 has no effect with linear"),
        (
            {"name": "wsd", "decay": "cliff"},
            "schedule.decay='cliff' is unknown: use one of ['cosine', 'linear', 'sqrt']",
        ),
        (
            {"name": "wsd", "decay_share": 0.99},
            "schedule.decay_share=0.99 and a warm-up of 0.02 add up to more than the whole",
        ),
    ],
)
def test_invalid_values_are_named(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        ScheduleSettings(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup_steps": 40}, "schedule.warmup_steps=40 is 40 steps of warm-up, but the order has 40"),
        ({"warmup_tokens": 4000}, "schedule.warmup_tokens=4000 is 40 steps of warm-up, but the order has 40"),
        (
            {"name": "wsd", "warmup_steps": 30, "decay_share": 0.5},
            "schedule.warmup_steps=30 is 30 steps of warm-up, but schedule.decay_share leaves 20 of 40",
        ),
    ],
)
def test_phases_longer_than_the_run_are_rejected(changes, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        rates(40, **changes)


@pytest.fixture(scope="module")
def rising_orders(tokens_folder, scores_folder, tmp_path_factory):
    """Arrange an order by a preference, in batches of 16."""
    root = tmp_path_factory.mktemp("orders")

    def make(name, preference):
        return arrange.run(
            arrange.ArrangeSettings(
                tokens=str(tokens_folder),
                scores=str(scores_folder),
                output=str(root / name),
                preference=preference,
                batch_size=16,
            )
        )

    return make


@pytest.mark.parametrize(
    ("name", "preference", "rises"),
    [
        ("pdpc", Pdpc(), True),
        ("plain", Pdpc(stratify_by=None, floor=0.0, ceiling=1.0), True),
        ("sorted", Sorted(), True),
        ("falling", Sorted(descending=True), False),
        ("flat", Pdpc(steepness=0.0), False),
        ("folded", Pdpc(folds=4), False),
        ("reversed", Pdpc(steepness=-10.0), False),
        ("shuffled", Shuffled(), False),
        ("frame", Frame(), False),
    ],
)
def test_a_rising_score_with_a_decay_to_nearly_zero_is_reported(name, preference, rises, rising_orders):
    order = rising_orders(name, preference)
    to_a_tenth = ScheduleSettings(final_share=0.1)
    reason = wasted_rise(to_a_tenth, order)
    assert (reason is not None) == rises
    assert wasted_rise(ScheduleSettings(), order) is None
    assert wasted_rise(ScheduleSettings(name="constant", final_share=1.0), order) is None
    assert wasted_rise(ScheduleSettings(name="wsd", final_share=0.0), order) == (
        reason and reason.replace("schedule cosine decays to 0.1", "schedule wsd decays to 0")
    )
    if rises:
        assert "rises over the run" in reason
        assert "schedule=gentle" in reason
        assert score_rise(order) > 0.3


@pytest.mark.parametrize("name", ["cosine", "linear", "wsd"])
def test_the_rate_follows_the_samples_when_the_batch_size_changes(name):
    """400 steps of 8, of which 200 are read, then 100 of 16: the same share of the samples has the same rate."""
    whole = Schedule.of(ScheduleSettings(name=name), 1.0, 400, 8)
    tail = Schedule.of(ScheduleSettings(name=name), 1.0, 200, 16).shifted(200, -100)
    for step in range(100):
        assert tail(200 + step) == pytest.approx(whole(200 + 2 * step), abs=0.05)
    assert tail(299) == pytest.approx(whole(399), abs=0.01)


def test_a_completed_warm_up_in_steps_is_over_after_the_batch_size_changes():
    tail = Schedule.of(ScheduleSettings(name="constant", final_share=1.0, warmup_steps=18), 1.0, 30, 16).shifted(
        20, -10
    )
    assert tail(20) == 1.0
