"""Stages end where requested: after token counts, at quantiles of the mean score, or as in another order."""

import numpy as np
import pytest

from curriculum.arrange.arrange import ArrangeSettings, run
from curriculum.artifact.files import ArtifactError
from curriculum.preference import Pdpc, Shuffled, Tilt
from curriculum.tokens.tokens import Tokens

PLAIN = Pdpc(stratify_by=None, floor=0.0, ceiling=1.0)


@pytest.fixture
def arranged(tokens_folder, scores_folder, tmp_path):
    def make(**changes):
        base = {
            "tokens": str(tokens_folder),
            "scores": str(scores_folder),
            "output": str(tmp_path / "order"),
            "preference": PLAIN,
            "batch_size": 8,
        }
        return run(ArrangeSettings(**{**base, **changes}))

    return make


def test_a_stage_ends_when_its_tokens_are_trained_on(arranged, tokens_folder):
    tokens = Tokens.open(tokens_folder)
    order = arranged(stage_tokens=[1000, 2500])
    assert len(order.stage_ends) == 3
    assert order.stage_ends[-1] == order.steps
    for end, wanted in zip(order.stage_ends, (1000, 2500), strict=False):
        read = tokens.real_tokens(order[: end * 8]).sum()
        assert abs(read - wanted) < 1.3 * 8 * tokens.seq_len


@pytest.mark.parametrize("preference", [PLAIN, Tilt(buckets=4, stratify_by=None), Pdpc()])
def test_a_stage_ends_where_the_mean_score_crosses_a_quantile(arranged, preference):
    quantiles = [0.4, 0.5, 0.6]
    order = arranged(preference=preference, stage_quantiles=quantiles)
    parts = len(order.buckets)
    middles = (np.arange(parts) + 0.5) / parts  # buckets are equal in tokens, and roughly in samples
    mean = order.plan[:] @ middles / order.plan[:].sum(axis=1)
    for quantile, end in zip(quantiles, order.stage_ends[:-1], strict=True):
        assert mean[end - 1] <= quantile + 0.02
        assert mean[end] >= quantile - 0.02
    assert order.stage_ends == sorted(set(order.stage_ends))


def test_the_other_arm_takes_the_stages_over(arranged, tmp_path):
    ours = arranged(stage_quantiles=[0.45])
    theirs = arranged(preference=Shuffled(), stages_of=str(ours.folder), output=str(tmp_path / "shuffled"))
    assert theirs.stage_ends == ours.stage_ends
    assert theirs.manifest.inputs["stages_of"] == ours.fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stage_tokens": [5, 5]}, r"stage_tokens=\[5, 5\] must be positive and rising"),
        ({"stage_tokens": [10**9]}, "1000000000 tokens are more than the run's"),
        ({"stage_tokens": [1, 2]}, "ends two stages after the same step"),
        ({"stage_quantiles": [1.5]}, r"stage_quantiles=\[1.5\] must lie between 0 and 1"),
        ({"stage_quantiles": [0.6, 0.4]}, "after step .* does not cross the quantile 0.4"),
        ({"stage_quantiles": [0.5], "preference": Shuffled()}, "shuffled does not cut by a score"),
        ({"stage_quantiles": [0.5], "stage_tokens": [100]}, "stage_tokens and stage_quantiles both"),
    ],
)
def test_a_stage_that_the_run_does_not_have_is_refused(arranged, changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        arranged(**changes)
    assert not (tmp_path / "order").exists()


def test_stages_of_an_order_of_other_steps_are_refused(arranged, tmp_path):
    other = arranged(batch_size=16)
    with pytest.raises(ValueError, match=r"stages_of: .* steps of 16 samples, this order"):
        arranged(stages_of=str(other.folder), output=str(tmp_path / "new"))


def test_an_order_with_other_stages_is_not_taken_for_the_same(arranged):
    arranged(stage_tokens=[1000])
    with pytest.raises(ArtifactError, match="stage_tokens"):
        arranged(stage_tokens=[1500])
