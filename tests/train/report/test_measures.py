import pytest

from train.report.measures import measures_of, short_tokens

RECORD = {
    "kind": "stage", "step": 1, "tokens": 1, "stage": 1, "time/evaluation_s": 3.0, "val/loss": 4.0,
    "val/high_pd/loss": 3.0, "val/low_pd/loss": 5.0, "val/source/a/b/loss": 4.0, "bench/echo/acc": 0.5,
    "bench/echo/acc_stderr": 0.01, "bench/avg": 0.5,
    "bench/lambada/perplexity": 30.0, "bench/boolq/error": "no data", "bench/mcc/mcc": -0.1,
}  # fmt: skip


def test_measures_come_in_the_order_of_the_table_with_names_and_units():
    found = measures_of([RECORD])
    assert [measure.label for measure in found] == [
        "All held-out text", "Low-PD half", "High-PD half", "a/b", "Benchmark average",
        "boolq (acc)", "echo (acc)", "lambada (perplexity)", "mcc (mcc)",
    ]  # fmt: skip
    by_key = {measure.key: measure for measure in found}
    assert by_key["val/source/a/b/loss"].group == "source"
    assert [by_key[key].unit for key in ("val/loss", "bench/echo/acc", "bench/lambada/perplexity")] == [
        "nats", "share", "number",
    ]  # fmt: skip
    assert by_key["val/loss"].lower_is_better
    assert by_key["bench/lambada/perplexity"].lower_is_better
    assert not by_key["bench/echo/acc"].lower_is_better
    assert not by_key["bench/mcc/mcc"].lower_is_better


def test_a_benchmark_that_failed_once_is_one_measure():
    later = {"bench/boolq/acc_norm": 0.6}
    keys = [measure.key for measure in measures_of([RECORD, later]) if "boolq" in measure.key]
    assert keys == ["bench/boolq/acc_norm"]


def test_numbers_are_written_with_a_true_minus_and_without_a_signed_zero():
    loss, share = (measure for measure in measures_of([{"val/loss": 1.0, "bench/x/acc": 1.0}]))
    assert loss.write(4.12345) == "4.1235"
    assert loss.write(None) == "\u2014"
    assert loss.write_difference(-0.25) == "\u22120.2500"
    assert loss.write_difference(0.25) == "+0.2500"
    assert loss.write_difference(-1e-9) == "0.0000"
    assert share.write(0.314) == "31.4%"
    assert share.write_difference(0.031) == "+3.1 pt"
    assert share.write_difference(-0.0001) == "0.0 pt"


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        (0, "0"),
        (950, "950"),
        (1000, "1.00k"),
        (81920, "81.9k"),
        (999_000, "999k"),
        (4_194_304, "4.19M"),
        (10**12, "1.00T"),
    ],
)
def test_tokens_are_written_short(tokens, text):
    assert short_tokens(tokens) == text


def test_bits_per_byte_are_a_separate_measure():
    found = measures_of([{"val/loss": 4.0, "val/bits_per_byte": 1.2, "val/source/a/bits_per_byte": 1.3}])
    assert [(m.label, m.unit, m.words, m.lower_is_better) for m in found[1:]] == [
        ("All held-out text, bits per byte", "bits", "bits per byte", True),
        ("a, bits per byte", "bits", "bits per byte", True),
    ]


def test_intervals_are_written_like_differences():
    loss, share = (measure for measure in measures_of([{"val/loss": 1.0, "bench/x/acc": 1.0}]))
    assert loss.write_interval(-0.25, 1e-9) == "\u22120.2500 to 0.0000"
    assert share.write_interval(0.011, 0.05) == "+1.1 to +5.0"
    assert loss.write_interval(None, None) == ""


def test_task_headlines_match_the_harness():
    from train.evaluation.harness.benchmarks import HEADLINES
    from train.report import measures

    assert measures.HEADLINES == HEADLINES
