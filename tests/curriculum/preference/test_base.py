"""What all preferences share: bucket names, folds, uses."""

import numpy as np
import pytest

from curriculum.preference import PREFERENCES, Cut, Frame, Mixture, Shuffled, Sorted, Tilt


def test_shuffled_wants_its_one_bucket_always():
    assert Shuffled().bucket_names(["a", "b"]) == ["all"]
    assert (Shuffled().log_wish(np.linspace(0, 1, 6), np.array([10]), ["all"]) == np.zeros((5, 1))).all()


def test_buckets_are_called_by_their_cuts():
    assert Tilt(buckets=2).bucket_names(["a"]) == ["low", "high"]
    assert Tilt(edges=[1.0, 2.0]).bucket_names(["a"]) == ["q1", "q2", "q3"]
    assert Sorted(buckets=2, folds=2).bucket_names(["a"]) == ["fold1/low", "fold1/high", "fold2/low", "fold2/high"]
    assert Mixture(shares={0.0: {"a": 1.0}}).bucket_names(["a", "b"]) == ["a", "b"]
    assert Frame().bucket_names([]) == ["Q1", "Q2", "Q3", "Q4"]
    assert Cut("source").names(["x"]) == ["x"]


def test_the_registry_knows_every_preference_by_its_name():
    made = {"mixture": {"shares": {0.0: {"a": 1.0}}}}
    for name, kind in PREFERENCES.items():
        if name != "table":  # it reads its file when created
            assert kind(**made.get(name, {})).name == name


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Shuffled(stratify_by="pd"), "stratify_by='pd' is not supported: use source or null"),
        (lambda: Shuffled(folds=0), "folds=0 must be at least 1"),
        (lambda: Shuffled(uses={"all": -1}), r"uses\.all=-1 must be between 0 \(leave out\) and 255"),
        (lambda: Shuffled(uses={"all": 256}), r"uses\.all=256"),
    ],
)
def test_impossible_parameters_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
