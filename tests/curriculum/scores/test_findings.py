"""What score finds, from SCORES to the run: untrained, constant and inverted models, and what train asks to accept."""

import logging
import math
from types import SimpleNamespace

import numpy as np
import pytest

from curriculum.arrange import replan
from curriculum.arrange.arrange import ArrangeSettings, run
from curriculum.preference import Pdpc, Shuffled
from curriculum.scores.baseline import baselines_of
from curriculum.scores.checks import findings_of
from curriculum.scores.findings import Findings, joined, of_order, of_scores
from curriculum.tokens.tokens import Tokens
from tests.scores import write_scores, write_slice
from train.inputs import check_scores

INVERTED = (
    "slice 'train': the strong model is worse than the weak one (mean PD -0.210, negative for 71% of the samples)"
)


@pytest.fixture
def tokens(tokens_folder):
    return Tokens.open(tokens_folder)


def found(folder, tokens, weak, strong, training=()):
    folder.mkdir(exist_ok=True)
    count = len(tokens)
    losses = {"weak": np.broadcast_to(weak, count).astype("f4"), "strong": np.broadcast_to(strong, count).astype("f4")}
    write_slice(folder, "train", losses, tokens.real_tokens(np.arange(count)))
    return findings_of(folder / "train.parquet", tokens, dict(training))


def noise(tokens, scale=0.2, seed=0):
    return np.random.default_rng(seed).normal(0, scale, len(tokens))


def test_a_sound_pair_of_models_is_not_complained_about(tokens, tmp_path):
    assert not found(tmp_path, tokens, 3.2 + noise(tokens), 2.8 + noise(tokens, seed=1))


@pytest.mark.parametrize(
    ("strong", "words"),
    [
        (lambda t: 3.4 + noise(t), "the strong model is worse than the weak one (mean PD -"),
        (
            lambda t: np.where(np.arange(len(t)) % 5 < 2, -2.0, 0.05) + 3.0 + noise(t, seed=7),
            "negative for 60% of the samples",
        ),
        (lambda t: np.full(len(t), 2.5), "model 'strong' gives nearly every sample the same loss"),
        (lambda t: 3.0 + noise(t, seed=7) - 1e-3, "PD is nearly the same everywhere"),
        (lambda t: 6.2 + noise(t), "model 'strong' is no better than guessing: 6."),
    ],
    ids=["inverted", "mostly negative", "constant loss", "constant PD", "untrained"],
)
def test_unusable_scores(tokens, tmp_path, strong, words):
    weak = 3.0 + noise(tokens, seed=7)
    findings = found(tmp_path, tokens, weak, strong(tokens))
    assert any(text.startswith("slice 'train': ") and words in text for text in findings.unusable), findings


def test_a_few_sources_are_told_and_most_of_the_samples_are_unusable(tokens, tmp_path):
    source = tokens.source_of(np.arange(len(tokens)))
    small = int(np.argmin(np.bincount(source)))
    few = found(tmp_path, tokens, 3.0 + noise(tokens), 2.0 + 1.3 * (source == small) + noise(tokens, seed=1))
    assert not few.unusable
    assert f"worse than the weak one on {tokens.sources[small]!r}" in few.others[0]


def test_a_model_is_compared_with_token_frequencies_and_guessing(tokens, tmp_path):
    baselines = baselines_of(tokens)
    assert baselines.uniform == pytest.approx(math.log(tokens.vocab_size))
    assert 3.0 < baselines.unigram < baselines.uniform
    assert baselines.shortfall(baselines.unigram - 0.01) is None
    assert "no better than token frequencies" in baselines.shortfall(baselines.unigram + 0.01)
    assert "no better than guessing" in baselines.shortfall(baselines.uniform + 0.01)
    between = (baselines.unigram + baselines.uniform) / 2
    how = {"weak": "7 steps at a learning rate of 0.0003"}
    findings = found(tmp_path, tokens, between + noise(tokens, 0.01), 3.0 + noise(tokens), how)
    assert "model 'weak' is no better than token frequencies" in findings.unusable[0]
    assert "trained for 7 steps at a learning rate of 0.0003" in findings.unusable[0]


def test_scores_of_older_versions_are_read():
    facts = {"warnings": ["model 'weak' was trained on slice 'train', which it now scores", f"{INVERTED}: low PD"]}
    findings = of_scores(facts)
    assert findings.unusable == (facts["warnings"][1],)
    assert findings.others == (facts["warnings"][0],)
    assert not of_scores({})
    assert not findings.of_slice("validation").unusable
    assert findings.of_slice("train") == findings
    assert joined([findings, findings]) == findings
    assert of_order(findings.as_fact()) == findings
    assert Findings().as_fact() == {}


@pytest.fixture
def bad_scores(tokens_folder, tmp_path):
    """SCORES in which the two models are mixed up, with the finding in the manifest."""

    def losses(part):
        weak = 3.0 + noise(part)
        return {"weak": weak, "strong": weak + 0.2 + noise(part, 0.1, 3)}

    slices = [Tokens.open(tokens_folder, name) for name in ("train", "validation")]
    return write_scores(tmp_path / "bad", slices, losses, warnings=[INVERTED], unusable=[INVERTED])


def arranged(tokens_folder, scores, output, preference):
    places = {"tokens": str(tokens_folder), "scores": str(scores), "output": str(output)}
    return run(ArrangeSettings(**places, preference=preference, batch_size=16))


def test_arrange_and_replan_repeat_and_keep_what_score_found(
    tokens_folder, bad_scores, scores_folder, tmp_path, caplog
):
    order = arranged(tokens_folder, bad_scores, tmp_path / "o", Pdpc())
    assert of_order(order.manifest.facts).unusable == (INVERTED,)
    assert caplog.text.count(INVERTED) == 1
    arranged(tokens_folder, bad_scores, tmp_path / "o", Pdpc())  # complete: reused
    assert caplog.text.count(INVERTED) == 2
    child = replan.run(
        replan.ReplanSettings(
            order=str(order.folder), from_step=5, output=str(tmp_path / "child"), tokens=str(tokens_folder),
            scores=str(scores_folder), preference=Pdpc(),
        )
    )  # fmt: skip
    assert of_order(child.manifest.facts).unusable == (INVERTED,), "what was read was read in that order"
    assert not of_order(arranged(tokens_folder, bad_scores, tmp_path / "s", Shuffled()).manifest.facts)
    assert not of_order(arranged(tokens_folder, scores_folder, tmp_path / "good", Pdpc()).manifest.facts)


def test_train_asks_to_accept_unusable_scores(tokens_folder, bad_scores, tmp_path, caplog, capsys):
    from launch.cli import main

    caplog.set_level(logging.INFO)
    arranged(tokens_folder, bad_scores, tmp_path / "o", Pdpc())
    words = ["train", "arm=a", "model=demo_weak", f"data.tokens={tokens_folder}", f"data.order={tmp_path / 'o'}"]
    assert main([*words, f"output={tmp_path / 'run'}", "tracker=none", "processes=1"]) == 2
    message = capsys.readouterr().err
    assert INVERTED in message
    assert "accept_scores=true" in message
    assert not (tmp_path / "run").exists()


def test_scores_of_the_halves_are_asked_about_too():
    findings = Findings((INVERTED,), ())
    order = SimpleNamespace(manifest=SimpleNamespace(facts={}))
    inputs = SimpleNamespace(findings=findings, order=order)
    settings = SimpleNamespace(accept_scores=False, data=SimpleNamespace(scores="s"))
    with pytest.raises(ValueError, match=r"the scores behind data\.scores=s are unusable: slice 'train'"):
        check_scores(settings, inputs)
    check_scores(SimpleNamespace(accept_scores=True, data=settings.data), inputs)
    check_scores(settings, SimpleNamespace(findings=Findings(others=("x",)), order=order))
