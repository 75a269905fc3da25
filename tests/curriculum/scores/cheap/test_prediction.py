import numpy as np
import pytest

from curriculum.scores.cheap.features import Features
from curriculum.scores.cheap.prediction import FEWEST, Prediction, chosen, predicted_losses
from curriculum.tokens.tokens import Tokens


@pytest.fixture(scope="module")
def tokens(tokens_folder):
    return Tokens.open(tokens_folder)


@pytest.fixture(scope="module")
def known(tokens):
    return Features(tokens).of(np.arange(len(tokens)))


def test_the_chosen_share_follows_from_the_ids_alone():
    ids = np.arange(20_000)
    share = chosen(ids, 0.1)
    assert share.mean() == pytest.approx(0.1, abs=0.01)
    assert np.array_equal(share[500:700], chosen(ids[500:700], 0.1))


def test_features_of_a_sample_do_not_depend_on_the_others(tokens, known):
    some = np.array([70, 3, len(tokens) - 1])
    assert np.array_equal(Features(tokens).of(some), known[some])
    assert known.shape == (len(tokens), 3 * len(tokens.sources) + 6)
    assert np.isfinite(known).all()


def test_information_from_pairs_is_lower_where_pairs_repeat(tokens, known):
    sources = len(tokens.sources)
    single, pair = known[:, sources + 2], known[:, 2 * sources + 4]
    easy = tokens.source_of(np.arange(len(tokens))) == tokens.sources.index("easy")
    assert pair[easy].mean() < single[easy].mean() - 1  # a grammar of twelve words
    assert pair[easy].mean() < pair[~easy].mean() - 1


def test_a_prediction_finds_what_follows_from_the_features(tokens, known):
    weights = np.random.default_rng(0).normal(size=known.shape[1])
    truth = (known @ weights).astype(np.float32)
    hidden = np.arange(len(tokens)) % 2 == 1
    found = predicted_losses(tokens, {"weak": np.where(hidden, np.nan, truth).astype(np.float32)}, {})["weak"]
    assert np.array_equal(found[~hidden], truth[~hidden])
    assert np.corrcoef(truth[hidden], found[hidden])[0, 1] > 0.99


def test_a_prediction_from_noise_is_the_mean():
    rng = np.random.default_rng(0)
    features, noise = rng.normal(size=(300, 200)).astype(np.float32), rng.normal(3, 1, 300).astype(np.float32)
    found = Prediction.fit(features, noise).of(rng.normal(size=(500, 200)).astype(np.float32))
    assert np.abs(found - 3).std() < 0.35  # ordinary least squares: about 1.4


def test_the_first_tokens_are_features_too_and_know_how_unusual_they_are(tokens, known):
    rng = np.random.default_rng(0)
    own = rng.normal(0, 1, len(tokens))
    usual = Features(tokens).of(np.arange(len(tokens)), 8)
    sources = len(tokens.sources)
    pair, begun = usual[:, 2 * sources + 5], usual[:, -1]
    assert np.array_equal(pair, known[:, 2 * sources + 4])
    truth, first = (pair + own).astype(np.float32), (begun + own).astype(np.float32)
    hidden = np.arange(len(tokens)) % 4 != 0
    losses = {"weak": np.where(hidden, np.nan, truth).astype(np.float32)}
    found = predicted_losses(tokens, losses, {"weak": first}, 8)["weak"]
    assert (found - truth)[hidden].std() < 0.3 * (pair - begun).std()  # what `first` without them leaves


def test_too_few_scored_samples_are_refused(tokens):
    loss = np.full(len(tokens), np.nan, dtype=np.float32)
    loss[: FEWEST - 1] = 1.0
    with pytest.raises(ValueError, match="raise fraction"):
        predicted_losses(tokens, {"weak": loss}, {})
