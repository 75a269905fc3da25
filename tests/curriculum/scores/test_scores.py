import numpy as np
import pytest

from curriculum.scores.scores import Scores


def test_pd_follows_from_the_losses(scores):
    weak, strong = np.exp(scores.column("loss_weak").astype(float)), np.exp(scores.column("loss_strong").astype(float))
    assert np.allclose(scores.column("pd"), (weak - strong) / weak, atol=1e-6)
    assert np.allclose(scores.column("ppl_strong"), strong, rtol=1e-6)
    assert scores.column("pd").dtype == np.float32
    assert (
        np.argsort(scores.column("pd")) == np.argsort(scores.column("loss_weak") - scores.column("loss_strong"))
    ).mean() > 0.99


def test_unknown_scores_and_slices_are_named(scores, scores_folder):
    with pytest.raises(
        ValueError,
        match=r"no score 'ppl_medium', only \['loss_weak', 'loss_strong', 'ppl_weak', 'ppl_strong', 'pd'\]",
    ):
        scores.column("ppl_medium")
    with pytest.raises(ValueError, match="no scores of slice 'reference'"):
        Scores.open(scores_folder, "reference")
