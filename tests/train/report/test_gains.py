import math

import pytest

from train.report.gains import TOKEN_TOLERANCE, compute, same_tokens, standard_error, verdict
from train.report.measures import measures_of


def stage(number, tokens, loss=4.0, **more):
    return {"kind": "stage", "stage": number, "step": number, "tokens": tokens, "val/loss": loss} | more


def table(in_memory, base, other, baseline="shuffled"):
    return compute([in_memory("pdpc", other), in_memory("shuffled", base)], baseline)


def test_change_is_to_the_stage_before_and_difference_to_the_baseline(in_memory):
    gains = table(in_memory, [stage(1, 100, 5.0), stage(2, 200, 4.0)], [stage(1, 100, 5.5), stage(2, 200, 3.75)])
    assert gains.arms == ["shuffled", "pdpc"]
    first, second = gains.cells["val/loss"]
    assert first["pdpc"].change is None
    assert (second["pdpc"].change, second["shuffled"].change) == (-1.75, -1.0)
    assert (first["pdpc"].difference, first["pdpc"].verdict) == (0.5, "worse")
    assert (second["pdpc"].difference, second["pdpc"].verdict) == (-0.25, "better")
    assert second["shuffled"].difference is None
    assert gains.final("pdpc", gains.headline_measure()).value == 3.75


def test_arms_are_compared_at_equal_tokens_not_at_equal_stage_numbers(in_memory):
    gains = table(in_memory, [stage(1, 100), stage(2, 200), stage(3, 300)], [stage(1, 200, 3.0), stage(2, 400, 2.0)])
    assert [point.tokens for point in gains.points] == [100, 200, 300, 400]
    differences = [row["pdpc"].difference if "pdpc" in row else None for row in gains.cells["val/loss"]]
    assert differences == [None, -1.0, None, None]
    assert gains.points[1].stages == {"shuffled": 2, "pdpc": 1}
    assert gains.last_common("pdpc") == 1


def test_tokens_may_differ_by_the_padding_of_a_few_samples_only(in_memory):
    assert same_tokens(100_000, 100_400)
    assert not same_tokens(100_000, 101_000)
    near, far = round(100_000 * (1 + TOKEN_TOLERANCE / 2)), round(100_000 * (1 + 3 * TOKEN_TOLERANCE))
    assert len(table(in_memory, [stage(1, 100_000)], [stage(1, near)]).points) == 1
    with pytest.raises(ValueError, match=r"pdpc .*no stage record in common.*101500 and 100000"):
        table(in_memory, [stage(1, 100_000)], [stage(1, far)])


def test_an_arm_without_stages_and_records_without_values_are_refused(in_memory):
    with pytest.raises(ValueError, match=r"evaluated at no and 100 tokens"):
        table(in_memory, [stage(1, 100)], [])
    empty = {"kind": "stage", "stage": 1, "step": 1, "tokens": 100}
    with pytest.raises(ValueError, match="hold no val/ or bench/ value"):
        table(in_memory, [empty], [empty])


@pytest.mark.parametrize(
    ("difference", "noise", "expected"),
    [(0.05, 0.06, "within noise"), (-0.05, 0.05, "worse"), (0.07, 0.06, "better"), (0.07, None, "no error bar")],
)
def test_a_benchmark_is_within_noise_below_two_combined_standard_errors(difference, noise, expected):
    (measure,) = measures_of([{"bench/x/acc": 0.5}])
    assert verdict(measure, difference, noise) == expected


def test_noise_combines_both_standard_errors(in_memory):
    more = {"bench/x/acc": 0.5, "bench/x/acc_stderr": 0.03}
    other = {"bench/x/acc": 0.57, "bench/x/acc_stderr": 0.04}
    gains = table(in_memory, [stage(1, 100, **more)], [stage(1, 100, **other)])
    cell = gains.cells["bench/x/acc"][0]["pdpc"]
    assert cell.noise == pytest.approx(0.1)
    assert cell.verdict == "within noise"


def test_a_difference_that_is_not_visible_is_equal():
    (measure,) = measures_of([{"val/loss": 4.0}])
    assert verdict(measure, 1e-6, None) == "equal"
    assert verdict(measure, 1e-3, None) == "worse"


def test_the_average_gets_the_standard_error_of_its_tasks():
    record = {"bench/avg": 0.5, "bench/a/acc": 0.4, "bench/a/acc_stderr": 0.03, "bench/b/acc": 0.6}
    record["bench/b/acc_stderr"] = 0.04
    assert standard_error(record, "bench/avg") == pytest.approx(math.hypot(0.03, 0.04) / 2)
    assert standard_error(record | {"bench/avg": 0.7}, "bench/avg") is None
    assert standard_error(record | {"bench/avg_stderr": 0.01}, "bench/avg") == 0.01
    assert standard_error(record, "bench/a/acc") == 0.03


def test_a_failed_benchmark_has_its_message_in_the_place_of_a_value(in_memory):
    failed = stage(1, 100, **{"bench/x/error": "no data"})
    gains = table(in_memory, [stage(1, 100, **{"bench/x/acc": 0.5})], [failed])
    cell = gains.cells["bench/x/acc"][0]["pdpc"]
    assert (cell.value, cell.error, cell.difference, cell.verdict) == (None, "no data", None, "")


def test_a_value_that_is_not_finite_is_no_value(in_memory):
    gains = table(in_memory, [stage(1, 100), stage(2, 200)], [stage(1, 100), stage(2, 200, math.nan)])
    assert gains.cells["val/loss"][1]["pdpc"].value is None
