"""The trial of cheap scores, on losses for which the answer is known."""

import numpy as np
import pytest

from curriculum.scores.cheap.features import Features
from curriculum.scores.cheap.trial import CheapVariant, Sources, Stand, compare, recommended, trial
from curriculum.tokens.tokens import Tokens

COUNT = 600


@pytest.fixture(scope="module")
def tokens(tokens_folder):
    return Tokens.open(tokens_folder)


@pytest.fixture(scope="module")
def ids(tokens):
    return np.sort(np.random.default_rng(1).choice(len(tokens), COUNT, replace=False))


def losses_of(tokens, ids, level_N, noise):
    """Return losses per label, [N, T], with the given means, for a weak model; the strong one has half of them."""
    rng = np.random.default_rng(0)
    shape = (len(ids), tokens.seq_len)
    real = np.arange(tokens.seq_len) < tokens.real_tokens(ids)[:, None]
    return {
        name: np.where(real, share * level_N[:, None] + noise * rng.normal(size=shape), 0).astype(np.float32)
        for name, share in (("weak", 1.0), ("strong", 0.5))
    }


def by_name(found):
    return {way.name: way for way in found}


def test_a_score_is_judged_inside_sources():
    sources = Sources(["a", "b"], np.repeat([0, 1], [300, 100]))
    rng = np.random.default_rng(0)
    exact = np.concatenate([rng.normal(0, 1, 300), rng.normal(100, 1, 100)])
    cheap = exact.copy()
    cheap[300:] = rng.permutation(cheap[300:])
    found = compare("x", 0.1, exact, cheap, 2, sources)
    assert np.corrcoef(exact, cheap)[0, 1] > 0.99  # over both sources, the sources alone
    assert found.rank_correlation == pytest.approx((300 * 1 + 100 * found.worst) / 400)
    assert abs(found.worst) < 0.25
    assert found.worst_source == "b"
    assert found.agreement == pytest.approx(0.75 + 0.25 * 0.5, abs=0.05)


def test_sources_with_few_samples_are_left_out_and_ties_share_a_rank():
    exact = np.arange(60.0)
    rare = Sources(["a", "b"], np.repeat([0, 1], [50, 10]))
    assert compare("x", 1, exact, np.where(exact < 50, exact, 0), 2, rare).rank_correlation == 1
    tied = compare("x", 1, exact, np.zeros(60), 2, Sources(["a"], np.zeros(60, dtype=np.int64)))
    assert tied.rank_correlation == 0
    with pytest.raises(ValueError, match="no source has 20 of the samples: raise trial"):
        compare("x", 1, exact[:10], exact[:10], 2, Sources(["a"], np.zeros(10, dtype=np.int64)))


def test_first_tokens_of_even_samples_reach_what_their_noise_allows(tokens, ids):
    level = np.random.default_rng(2).normal(6, 0.5, COUNT)
    found = by_name(trial(tokens, ids, [Stand("", losses_of(tokens, ids, level, 0.0))], 2, costs=(0.1, 0.25)))
    assert found["first_tokens=3"].rank_correlation == pytest.approx(1)
    assert found["first_tokens=3"].cost == pytest.approx(3 / 32, rel=0.05)
    noisy = by_name(trial(tokens, ids, [Stand("", losses_of(tokens, ids, level, 3.0))], 2, costs=(0.1, 0.25)))
    assert noisy["first_tokens=3"].rank_correlation < noisy["first_tokens=8"].rank_correlation < 0.95
    both = noisy["fraction=0.125 first_tokens=4"]
    assert both.cost == pytest.approx(0.25, abs=0.01)


def test_a_fraction_is_enough_for_what_the_features_say_and_useless_for_the_rest(tokens, ids):
    known = Features(tokens).of(ids)
    pair = known[:, 2 * len(tokens.sources) + 4]
    found = by_name(trial(tokens, ids, [Stand("", losses_of(tokens, ids, pair, 0.0))], 2, costs=(0.1,)))
    assert found["fraction=0.1"].rank_correlation > 0.97
    assert found["fraction=0.1"].cost == 0.1
    chance = np.random.default_rng(2).normal(6, 0.5, COUNT)
    found = by_name(trial(tokens, ids, [Stand("", losses_of(tokens, ids, chance, 0.0))], 2, costs=(0.01, 0.1)))
    assert abs(found["fraction=0.1"].rank_correlation) < 0.3
    assert "fraction=0.01" not in found  # of about 1,500 samples, too few to fit


def test_smaller_models_cost_their_share_and_are_combined(tokens, ids):
    level = np.random.default_rng(2).normal(6, 0.5, COUNT)
    exact = Stand("", losses_of(tokens, ids, level, 0.0))
    small = Stand("models.strong=s", losses_of(tokens, ids, level, 0.2), cost=0.4)
    found = by_name(trial(tokens, ids, [exact, small], 2, costs=(0.1,)))
    assert found["models.strong=s"].cost == 0.4
    assert found["models.strong=s"].rank_correlation > 0.95
    first = found["models.strong=s first_tokens=8"]  # a quarter of the tokens at 0.4 of the cost
    assert first.cost == pytest.approx(0.1, rel=0.05)
    assert found["first_tokens=3"].rank_correlation == pytest.approx(1)


def test_the_cheapest_that_is_enough_is_recommended():
    ways = [CheapVariant("a", 0.5, 0.97, 1), CheapVariant("b", 0.1, 0.951, 1), CheapVariant("c", 0.03, 0.949, 1)]
    best = recommended(ways)
    assert best is not None
    assert best.name == "b"
    assert recommended(ways[2:]) is None
