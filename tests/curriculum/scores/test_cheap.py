import numpy as np
import pytest

from curriculum.scores.cheap import FEWEST, chosen, compare, features, predict, predicted_losses, trial
from curriculum.tokens.tokens import Tokens


@pytest.fixture
def tokens(tokens_folder):
    return Tokens.open(tokens_folder)


def test_the_chosen_share_follows_from_the_ids_alone():
    ids = np.arange(20_000)
    share = chosen(ids, 0.1)
    assert share.mean() == pytest.approx(0.1, abs=0.01)
    assert np.array_equal(share[500:700], chosen(ids[500:700], 0.1))


def test_a_prediction_finds_what_follows_from_the_features(tokens):
    known = features(tokens, np.arange(len(tokens)))
    truth = (known @ np.arange(1, known.shape[1] + 1)).astype(np.float32)
    hidden = np.arange(len(tokens)) % 2 == 1
    found = predict(known, np.where(hidden, np.nan, truth).astype(np.float32))
    assert np.array_equal(found[~hidden], truth[~hidden])
    assert compare("p", 0.5, truth[hidden], found[hidden], 2).rank_correlation > 0.99


def test_too_few_scored_samples_are_refused(tokens):
    loss = np.full(len(tokens), np.nan, dtype=np.float32)
    loss[: FEWEST - 1] = 1.0
    with pytest.raises(ValueError, match="raise fraction"):
        predicted_losses(tokens, {"weak": loss}, {})


def test_a_trial_of_whole_samples_agrees_with_itself(tokens):
    ids = np.arange(200)
    rng = np.random.default_rng(0)
    level = rng.uniform(1, 3, (200, 1))
    losses = {n: (level * s + 0.1 * rng.random((200, 32))).astype(np.float32) for n, s in (("weak", 2), ("strong", 1))}
    for loss in losses.values():
        loss[np.arange(32) >= tokens.real_tokens(ids)[:, None]] = 0
    found = {way.name: way for way in trial(tokens, ids, losses, [8, 32], [0.25], 2)}
    assert found["first_tokens=32"].rank_correlation == pytest.approx(1)
    assert found["first_tokens=32"].cost == 1
    assert found["first_tokens=8"].rank_correlation > 0.9
    assert found["fraction=0.25 first_tokens=8"].rank_correlation > found["fraction=0.25"].rank_correlation
