import math

import numpy as np
import pytest

from tests.train.report.stages import answered, right, seeds_of, stage
from train.evaluation.answers import Items
from train.report.arms import arm_of
from train.report.gains import TOKEN_TOLERANCE, compute, same_tokens
from train.report.sides import averaged, standard_error


def table(in_memory, base, other, baseline="shuffled"):
    arms = {"pdpc": other, "shuffled": base}
    return compute([arm_of(name, [in_memory(name, records)]) for name, records in arms.items()], baseline)


def test_change_is_from_the_previous_stage_and_difference_from_the_baseline(in_memory):
    gains = table(in_memory, [stage(1, 100, 5.0), stage(2, 200, 4.0)], [stage(1, 100, 5.5), stage(2, 200, 3.75)])
    assert gains.arms == ["shuffled", "pdpc"]
    first, second = gains.cells["val/loss"]
    assert first["pdpc"].change is None
    assert (second["pdpc"].change.value, second["shuffled"].change.value) == (-1.75, -1.0)
    assert (first["pdpc"].difference, first["pdpc"].verdict) == (0.5, "no error bar")
    assert second["pdpc"].difference == -0.25
    assert second["shuffled"].difference is None
    assert gains.final("pdpc", gains.headline_measure()).value == 3.75


def test_arms_are_compared_at_equal_tokens_not_at_equal_stage_numbers(in_memory):
    gains = table(in_memory, [stage(1, 100), stage(2, 200), stage(3, 300)], [stage(1, 200, 3.0), stage(2, 400, 2.0)])
    assert [point.tokens for point in gains.points] == [100, 200, 300, 400]
    differences = [row["pdpc"].difference if "pdpc" in row else None for row in gains.cells["val/loss"]]
    assert differences == [None, -1.0, None, None]
    assert gains.points[1].stages == {"shuffled": 2, "pdpc": 1}
    assert gains.last_common("pdpc") == 1


def test_tokens_may_differ_only_by_the_padding_of_a_few_samples(in_memory):
    assert same_tokens(100_000, 100_400)
    assert not same_tokens(100_000, 101_000)
    near, far = round(100_000 * (1 + TOKEN_TOLERANCE / 2)), round(100_000 * (1 + 3 * TOKEN_TOLERANCE))
    assert len(table(in_memory, [stage(1, 100_000)], [stage(1, near)]).points) == 1
    with pytest.raises(ValueError, match=r"pdpc .*no stage record in common.*101500 and 100000"):
        table(in_memory, [stage(1, 100_000)], [stage(1, far)])


def test_an_arm_without_stages_and_records_without_values_are_rejected(in_memory):
    with pytest.raises(ValueError, match=r"evaluated at no and 100 tokens"):
        table(in_memory, [stage(1, 100)], [])
    empty = {"kind": "stage", "stage": 1, "step": 1, "tokens": 100}
    with pytest.raises(ValueError, match="hold no val/ or bench/ value"):
        table(in_memory, [empty], [empty])


def test_without_answers_the_interval_uses_both_standard_errors_and_says_so(in_memory):
    more = {"bench/x/acc": 0.5, "bench/x/acc_stderr": 0.03}
    other = {"bench/x/acc": 0.57, "bench/x/acc_stderr": 0.04}
    gains = table(in_memory, [stage(1, 100, **more)], [stage(1, 100, **other)])
    gain = gains.cells["bench/x/acc"][0]["pdpc"].gain
    assert (gain.low, gain.high) == pytest.approx((0.07 - 1.96 * 0.05, 0.07 + 1.96 * 0.05), abs=1e-5)
    assert (gain.method, gain.verdict) == ("standard errors", "no verdict")


def test_several_seeds_are_one_arm_whose_values_are_means(in_memory):
    base, other = seeds_of(in_memory, "shuffled", [4.0, 4.2, 4.4]), seeds_of(in_memory, "pdpc", [3.9, 4.1, 4.3001])
    (row,) = compute([other, base], "shuffled").cells["val/loss"]
    assert (row["shuffled"].value, row["shuffled"].seeds) == (pytest.approx(4.2), 3)
    gain = row["pdpc"].gain
    assert gain.paired
    ends = pytest.approx((-0.1, -0.1, -0.1), abs=3e-4)
    assert (gain.value, gain.low, gain.high) == ends, "pairing removes the seed variance"
    assert (gain.verdict, gain.method) == ("better", "seeds")


def test_arms_with_different_seeds_are_compared_unpaired(in_memory):
    base, other = seeds_of(in_memory, "shuffled", [4.0, 4.2, 4.4]), seeds_of(in_memory, "pdpc", [3.9, 4.1])
    (row,) = compute([other, base], "shuffled").cells["val/loss"]
    gain = row["pdpc"].gain
    deviation = math.sqrt((0.08 + 0.02) / 3 * (1 / 3 + 1 / 2))
    assert (gain.low, gain.high) == pytest.approx((-0.2 - 3.182446 * deviation, -0.2 + 3.182446 * deviation))
    assert (gain.paired, gain.verdict) == (False, "no significant difference")


def test_one_of_many_measures_is_suggestive_unless_it_holds_after_correction(in_memory):
    names = [f"val/source/s{number}/loss" for number in range(20)]
    rng = np.random.default_rng(1)
    arms = []
    for arm in ("shuffled", "pdpc"):
        runs = []
        for seed in range(4):
            losses = {name: 4.0 + rng.normal(0, 0.01) for name in names}
            if arm == "pdpc":
                losses[names[0]] -= 0.03
                losses[names[1]] -= 0.5
                losses[names[2]] = 4.0 + 0.001 * seed
            bits = {"val/source/s0/bits_per_byte": 0.3 * losses[names[0]]}
            runs.append(in_memory(arm, [stage(1, 100, 4 + rng.normal(0, 0.01), **losses, **bits)], seed=seed))
        arms.append(arm_of(arm, runs))
    cells = compute(arms, "shuffled").cells
    weak, strong, bits = (cells[key][0]["pdpc"].gain for key in (*names[:2], "val/source/s0/bits_per_byte"))
    assert (weak.verdict, strong.verdict, bits.verdict) == ("suggestive", "better", "suggestive")
    assert weak.high < 0
    assert weak.p < 0.05 < weak.corrected
    assert bits.corrected == weak.corrected, "the loss in other units is no further measure"
    primary = cells["val/loss"][0]["pdpc"].gain
    assert primary.corrected == primary.p, "the measure of the headline is a family of its own"


def test_the_same_items_are_compared_one_by_one(in_memory, tmp_path):
    asked = np.random.default_rng(0).integers(0, 2, 500).astype(float)
    better = asked.copy()
    better[np.flatnonzero(asked == 0)[:20]] = 1.0
    arms = []
    for arm, values in (("shuffled", asked), ("pdpc", better)):
        record = stage(
            1, 100, **{"bench/x/acc": values.mean(), "bench/x/acc_stderr": 0.0224, "bench/avg": values.mean()}
        )
        arms.append(answered(in_memory, tmp_path, arm, [record], {1: {"bench/x/acc": right(values)}}))
    gains = compute(arms, "shuffled")
    for key in ("bench/x/acc", "bench/avg"):
        gain = gains.cells[key][0]["pdpc"].gain
        assert (gain.method, gain.verdict) == ("items", "no verdict"), key
        assert gain.low > 0, key
        assert gain.value == pytest.approx(0.04)
        assert gain.high - gain.low < 0.036, "unpaired, it would be 0.12"
    assert gains.cells["val/loss"][0]["pdpc"].gain is not None
    assert gains.cells["val/loss"][0]["pdpc"].verdict == "equal"


def test_a_stage_is_compared_with_the_one_before_item_by_item(in_memory, tmp_path):
    first = np.zeros(300)
    second = first.copy()
    second[:30] = 1.0
    answers = {1: {"bench/x/acc": right(first)}, 2: {"bench/x/acc": right(second)}}
    records = [stage(1, 100, **{"bench/x/acc": 0.0}), stage(2, 200, **{"bench/x/acc": 0.1})]
    arms = [answered(in_memory, tmp_path, arm, records, answers) for arm in ("shuffled", "pdpc")]
    change = compute(arms, "shuffled").cells["bench/x/acc"][1]["pdpc"].change
    assert (change.value, change.verdict, change.method) == (pytest.approx(0.1), "no verdict", "items")
    assert 0.06 < change.low < change.high < 0.14


@pytest.mark.parametrize("problem", ["other items", "other values"])
def test_answers_that_do_not_match_are_not_used(in_memory, tmp_path, problem):
    values = np.arange(100) % 2
    record = stage(1, 100, **{"bench/x/acc": 0.5, "bench/x/acc_stderr": 0.05})
    other = right(values, np.arange(100) + 1) if problem == "other items" else right(np.zeros(100))
    arms = [
        answered(in_memory, tmp_path, "shuffled", [record], {1: {"bench/x/acc": right(values)}}),
        answered(in_memory, tmp_path, "pdpc", [record], {1: {"bench/x/acc": other}}),
    ]
    gains = compute(arms, "shuffled")
    assert gains.cells["bench/x/acc"][0]["pdpc"].gain.method == "standard errors"
    text = "the stored answers for bench/x/acc do not reproduce the recorded value"
    notes = [note for note in gains.notes if text in note]
    assert len(notes) == (problem == "other values")


def test_bits_per_byte_have_the_scaled_interval_of_the_loss(in_memory, tmp_path):
    rng = np.random.default_rng(3)
    weights = rng.integers(5, 50, 200).astype(float)
    own = rng.normal(4, 1, 200)
    arms = []
    for arm, shift in (("shuffled", 0.0), ("pdpc", -0.05)):
        items = Items(np.arange(200), own + rng.normal(shift, 0.1, 200), weights)
        record = stage(1, 100, items.mean(), **{"val/bits_per_byte": 0.3 * items.mean()})
        arms.append(answered(in_memory, tmp_path, arm, [record], {1: {"val/loss": items}}))
    cells = compute(arms, "shuffled").cells
    loss, bits = (cells[key][0]["pdpc"].gain for key in ("val/loss", "val/bits_per_byte"))
    assert (bits.value, bits.low, bits.high) == pytest.approx((0.3 * loss.value, 0.3 * loss.low, 0.3 * loss.high))
    assert bits.verdict == loss.verdict == "no verdict"


def test_answers_that_do_not_say_what_belongs_together_are_reported(in_memory, tmp_path):
    values = np.arange(100) % 2
    record = stage(1, 100, **{"bench/x/acc": 0.5})
    old = Items(np.arange(100), values.astype(float), np.ones(100))
    arms = [
        answered(in_memory, tmp_path, arm, [record], {1: {"bench/x/acc": items}})
        for arm, items in (("shuffled", right(values)), ("pdpc", old))
    ]
    gains = compute(arms, "shuffled")
    assert gains.ungrouped == ["pdpc"]
    assert gains.cells["bench/x/acc"][0]["pdpc"].gain.method == "items"


def test_the_average_of_a_group_is_over_what_the_run_was_asked_for():
    record = {"bench/avg": 0.5, "bench/group/acc": 0.4, "bench/member/acc": 0.3, "bench/other/acc": 0.6}
    assert averaged(record) == []
    assert averaged(record, ["group", "other"]) == ["bench/group/acc", "bench/other/acc"]


def test_the_average_gets_the_standard_error_of_its_tasks():
    record = {"bench/avg": 0.5, "bench/a/acc": 0.4, "bench/a/acc_stderr": 0.03, "bench/b/acc": 0.6}
    record["bench/b/acc_stderr"] = 0.04
    assert standard_error(record, "bench/avg") == pytest.approx(math.hypot(0.03, 0.04) / 2)
    assert standard_error(record | {"bench/avg": 0.7}, "bench/avg") is None
    assert standard_error(record | {"bench/avg_stderr": 0.01}, "bench/avg") == 0.01
    assert standard_error(record, "bench/a/acc") == 0.03
    assert averaged(record | {"bench/b/perplexity": 9.0}) == ["bench/a/acc", "bench/b/acc"]
    assert averaged({"bench/avg": 0.7, "bench/a/acc": 0.4, "bench/a/acc_norm": 0.7}) == ["bench/a/acc_norm"]


def test_a_failed_benchmark_has_an_error_message_instead_of_a_value(in_memory):
    failed = stage(1, 100, **{"bench/x/error": "no data"})
    gains = table(in_memory, [stage(1, 100, **{"bench/x/acc": 0.5})], [failed])
    cell = gains.cells["bench/x/acc"][0]["pdpc"]
    assert (cell.value, cell.error, cell.difference, cell.verdict) == (None, "no data", None, "")


def test_a_non_finite_value_is_missing(in_memory):
    gains = table(in_memory, [stage(1, 100), stage(2, 200)], [stage(1, 100), stage(2, 200, math.nan)])
    assert gains.cells["val/loss"][1]["pdpc"].value is None
