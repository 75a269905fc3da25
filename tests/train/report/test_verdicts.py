import pytest

from train.report.intervals import Interval
from train.report.measures import measures_of
from train.report.verdicts import holm, verdict


@pytest.mark.parametrize(
    ("key", "difference", "ends", "expected"),
    [
        ("bench/x/acc", 0.05, (-0.01, 0.11), "no significant difference"),
        ("bench/x/acc", -0.05, (-0.09, -0.01), "worse"),
        ("bench/x/acc", 0.07, (0.01, 0.13), "better"),
        ("bench/x/acc", 0.07, None, "no error bar"),
        ("val/loss", -0.07, (-0.13, -0.01), "better"),
        ("val/loss", 0.07, None, "no error bar"),
        ("val/loss", 1e-6, None, "equal"),
        ("val/loss", 0.0, (0.0, 0.0), "equal"),
        ("val/loss", 0.0, (-0.1, 0.1), "no significant difference"),
        ("val/loss", 1e-5, (8e-6, 1.2e-5), "equal"),
        ("bench/x/brier_score", -0.07, (-0.13, -0.01), "better"),
        ("bench/x/word_perplexity.filtered", -0.07, (-0.13, -0.01), "better"),
        ("bench/x/wer", 0.07, (0.01, 0.13), "worse"),
        ("bench/x/mcc", 0.07, (0.01, 0.13), "better"),
    ],
)
def test_a_verdict_needs_an_interval_that_excludes_zero(key, difference, ends, expected):
    (measure,) = measures_of([{key: 0.5}])
    assert verdict(measure, difference, None if ends is None else Interval(*ends, "items and seeds", 0.01)) == expected


@pytest.mark.parametrize(
    ("difference", "ends", "expected"),
    [
        (-0.07, (-0.13, -0.01), "no verdict"),
        (-0.07, (-0.13, 0.01), "no verdict"),
        (0.0, (-0.1, 0.1), "no verdict"),
        (0.0, (0.0, 0.0), "equal"),
        (0.0, None, "equal"),
        (-0.07, None, "no error bar"),
    ],
)
def test_a_withheld_verdict_is_neither_better_nor_worse(difference, ends, expected):
    (measure,) = measures_of([{"val/loss": 4.0}])
    found = None if ends is None else Interval(*ends, "items", 0.01)
    assert verdict(measure, difference, found, "one seed per arm") == expected


def test_holm_multiplies_the_smallest_by_all_and_the_largest_by_none():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([0.02]) == [0.02]
    assert holm([]) == []
