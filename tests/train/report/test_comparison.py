"""Compared is what both sides have, and there is a verdict only over several seeds."""

import dataclasses
import math

import numpy as np
import pytest

from tests.train.report.stages import answered, seeds_of, stage, with_tasks
from train.evaluation.answers import Items
from train.report.arms import arm_of
from train.report.gains import compute


def test_a_seed_without_a_value_takes_its_pair_out_of_the_comparison(in_memory):
    base = seeds_of(in_memory, "shuffled", [4.0, 4.2, 6.0])
    runs = [in_memory("pdpc", [stage(1, 100, loss)] if loss else [], seed=n) for n, loss in enumerate([3.9, 4.2, 0])]
    (row,) = compute([arm_of("pdpc", runs), base], "shuffled").cells["val/loss"]
    assert (row["pdpc"].value, row["pdpc"].seeds) == (pytest.approx(4.05), 2)
    assert row["shuffled"].value == pytest.approx(14.2 / 3)
    gain = row["pdpc"].gain
    assert (gain.value, gain.base, gain.seeds, gain.base_seeds) == (pytest.approx(-0.05), pytest.approx(4.1), 2, 2)
    assert gain.paired
    assert gain.notes == ["without shuffled seed 2, whose pair has no value"]
    assert gain.verdict == "no significant difference", "unpaired, over 2 and 3 seeds, it would be -0.68"


def test_a_change_is_over_the_seeds_that_both_stages_have(in_memory):
    losses = [[5.0, 4.0], [5.2, 4.1], [9.0, None]]
    runs = [
        in_memory("pdpc", [stage(n, 100 * n, loss) for n, loss in enumerate(each, 1) if loss], seed=seed)
        for seed, each in enumerate(losses)
    ]
    base = arm_of("shuffled", [in_memory("shuffled", [stage(1, 100), stage(2, 200)], seed=7)])
    change = compute([arm_of("pdpc", runs), base], "shuffled").cells["val/loss"][1]["pdpc"].change
    assert change.value == pytest.approx(-1.05)
    assert change.notes == ["without pdpc seed 2, whose pair has no value"]


def test_an_average_is_compared_over_the_tasks_that_both_arms_have(in_memory):
    """The arms are equal in `hard`, and `easy` timed out in one: the averages are 0.5725 and 0.3025."""
    base = with_tasks(in_memory, "shuffled", [{"hard": 0.3025, "easy": 0.8425}])
    other = with_tasks(in_memory, "pdpc", [{"hard": 0.3025, "easy": None}])
    (row,) = compute([other, base], "shuffled").cells["bench/avg"]
    gain = row["pdpc"].gain
    assert (gain.value, gain.base, gain.own, gain.verdict) == (0.0, 0.3025, 0.3025, "equal")
    assert gain.notes == ["over 1 of 2 tasks, without easy"]
    assert row["shuffled"].value == pytest.approx(0.5725)


def test_an_average_over_seeds_is_over_the_tasks_that_all_of_them_have(in_memory):
    whole = [{"hard": 0.30, "easy": 0.80}, {"hard": 0.32, "easy": 0.84}, {"hard": 0.31, "easy": 0.82}]
    partly = [{"hard": 0.31, "easy": 0.82}, {"hard": 0.31, "easy": None}, {"hard": 0.30, "easy": 0.80}]
    (row,) = compute(
        [with_tasks(in_memory, "pdpc", partly), with_tasks(in_memory, "shuffled", whole)], "shuffled"
    ).cells["bench/avg"]
    gain = row["pdpc"].gain
    assert row["pdpc"].value == pytest.approx(0.92 / 3)
    assert (gain.value, gain.base, gain.seeds) == (pytest.approx(-0.01 / 3), pytest.approx(0.31), 3)
    assert gain.verdict == "no significant difference", "over whatever each seed has, it would be -0.09"
    assert gain.notes == ["over 1 of 2 tasks, without easy"]


def test_a_run_without_an_average_is_compared_over_the_tasks_it_was_asked_for(in_memory):
    config = {"benchmarks": {"tasks": ["hard", "easy", "prose"]}}
    base = with_tasks(in_memory, "shuffled", [{"hard": 0.3, "easy": 0.8}])
    record = stage(1, 100, **{"bench/hard/acc": 0.31, "bench/easy/error": "timed out", "bench/prose/perplexity": 30.0})

    def compared(config):
        run = dataclasses.replace(in_memory("pdpc", [record], seed=0), config=config)
        return compute([arm_of("pdpc", [run]), base], "shuffled").cells["bench/avg"][0]["pdpc"].gain

    gain = compared(config)
    assert (gain.base, gain.own, gain.notes) == (0.3, 0.31, ["over 1 of 2 tasks, without easy"])
    assert compared({}) is None, "what was asked for is unknown"
    assert compared({"benchmarks": {"tasks": ["hard", "easy", "tag"]}}) is None


def test_averages_over_tags_are_compared_only_if_nothing_is_missing(in_memory):
    """With a tag, the mean of `a` and `b` counts once: the records do not say what the average is over."""

    def arm(name, **tasks):
        values = {f"bench/{task}/acc": value for task, value in tasks.items()}
        return arm_of(name, [in_memory(name, [stage(1, 100, **values, **{"bench/avg": 0.6})], seed=0)])

    base = arm("shuffled", a=0.2, b=0.4, c=0.9)
    (row,) = compute([arm("pdpc", a=0.3, b=0.4, c=0.85), base], "shuffled").cells["bench/avg"]
    assert row["pdpc"].gain is not None
    (row,) = compute([arm("pdpc", a=0.3, b=0.4), base], "shuffled").cells["bench/avg"]
    assert (row["pdpc"].gain, row["pdpc"].note) == (None, "averages of different tasks")


def test_one_seed_per_arm_gets_no_verdict_whatever_the_items_say(in_memory, tmp_path):
    rng = np.random.default_rng(0)
    own = rng.normal(4, 0.01, 500)
    arms = []
    for arm, shift in (("shuffled", 0.0), ("pdpc", -0.5)):
        items = Items(np.arange(500), own + shift, np.ones(500), np.arange(500))
        records = [stage(number, 100 * number, items.mean()) for number in (1, 2)]
        arms.append(answered(in_memory, tmp_path, arm, records, {1: {"val/loss": items}, 2: {"val/loss": items}}))
    gains = compute(arms, "shuffled")
    for row in gains.cells["val/loss"]:
        gain = row["pdpc"].gain
        assert (gain.verdict, gain.withheld, gain.method) == ("no verdict", "one seed per arm", "items")
        assert gain.low < -0.499
        assert gain.high < -0.49
        assert gain.corrected is None


def test_a_seed_that_diverged_leaves_no_verdict(in_memory):
    base = seeds_of(in_memory, "shuffled", [4.0, 4.1, 4.05])
    other = seeds_of(in_memory, "pdpc", [3.5, 3.62, math.nan])
    (row,) = compute([other, base], "shuffled").cells["val/loss"]
    gain = row["pdpc"].gain
    assert (gain.seeds, gain.verdict) == (2, "no verdict")
    assert gain.withheld == "pdpc seed 2: the value is not a finite number"


def test_runs_of_one_seed_are_no_seeds(in_memory):
    runs = [in_memory("pdpc", [stage(1, 100, loss)], seed=3) for loss in (3.5, 3.5001, 3.5002)]
    (row,) = compute([arm_of("pdpc", runs), seeds_of(in_memory, "shuffled", [4.0, 4.1])], "shuffled").cells["val/loss"]
    assert (row["pdpc"].verdict, row["pdpc"].gain.withheld) == ("no verdict", "runs of pdpc have the same seed")


def test_seeds_that_do_not_differ_at_all_are_no_error_bar(in_memory):
    """Three seeds with the same number of right answers are a tie, not a spread of zero."""
    arms = []
    for arm, value in (("shuffled", 0.500), ("pdpc", 0.501)):
        runs = [in_memory(arm, [stage(1, 100, **{"bench/x/acc": value})], seed=seed) for seed in range(3)]
        arms.append(arm_of(arm, runs))
    gain = compute(arms, "shuffled").cells["bench/x/acc"][0]["pdpc"].gain
    assert (gain.low, gain.verdict) == (None, "no error bar")
