import numpy as np
import pytest
import torch

from curriculum.artifact.manifest import open_manifest
from curriculum.scores.job import ScoringJob, ScoringWorker
from curriculum.scores.scorer import ChunkScorer, Reference, ScoringOptions
from curriculum.tokens.tokens import Tokens
from curriculum.work.chunks import Chunk
from curriculum.work.job import work_here
from models import DecoderConfig
from models.decoder import build


def decoder(tokens, seed=0):
    return build(
        DecoderConfig(
            vocab_size=tokens.vocab_size, layers=1, width=16, heads=2, kv_heads=1, ffn=24, max_seq_len=32,
            end_of_text=tokens.end_of_text,
        ),
        seed,
    )  # fmt: skip


@pytest.fixture
def tokens(tokens_folder):
    return Tokens.open(tokens_folder, "validation")


def scorer(tokens, model, batch_size, **options):
    reference = Reference(model, "x", tokens.tokenizer_fingerprint, None)
    return ChunkScorer({tokens.slice: tokens}, {"weak": reference}, ScoringOptions(batch_size, "fp32", **options))


def everything(tokens):
    return Chunk(tokens.slice, 0, 0, len(tokens))


def test_a_score_is_the_mean_loss_of_the_real_labels_at_any_batch_size(tokens):
    model = decoder(tokens)
    columns = scorer(tokens, model, 7).score(everything(tokens))
    scores = columns["loss_weak"]
    assert scores.dtype == np.float32
    assert np.allclose(scores, scorer(tokens, model, 64).score(everything(tokens))["loss_weak"], atol=1e-5)
    for sample in (0, len(tokens.samples_of(0)) - 1, len(tokens) - 1):  # the last sample of a source is short
        ids = torch.from_numpy(tokens.sample([sample]))
        real = ids[0][ids[0] >= 0]
        logits = model.logits(real[None, :-1])[0]
        expected = torch.nn.functional.cross_entropy(logits, real[1:])
        assert scores[sample] == pytest.approx(expected.item(), abs=1e-5)


def references(tokens, **changes):
    defaults = {"tokenizer_fingerprint": tokens.tokenizer_fingerprint, "trained_on": None, **changes}
    return {
        name: lambda seed=seed: Reference(decoder(tokens, seed), str(seed), **defaults)
        for seed, name in enumerate(("weak", "strong"))
    }


def write_scores(folder, tokens, references, identities, *, batch_size, precision):
    """Score every sample of every slice in this process, or open the scores that are there."""
    options = ScoringOptions(batch_size, precision)
    job = ScoringJob(folder, tokens, {name: identities.get(name, "") for name in references}, options)
    if (scores := job.reused()) is not None:
        return scores
    scorer = ChunkScorer(tokens, {name: load() for name, load in references.items()}, options)
    work_here(job, lambda: ScoringWorker(job, scorer))
    return job.finish()


def test_every_sample_has_a_row_and_a_whole_folder_is_reused(tokens, tmp_path, capsys):
    made = write_scores(
        tmp_path / "s",
        {"validation": tokens},
        references(tokens),
        {"weak": "0", "strong": "1"},
        batch_size=8,
        precision="fp32",
    )
    assert len(made) == len(tokens)
    assert made.models == ["weak", "strong"]
    out = capsys.readouterr().out
    assert "easy" in out
    assert "PD" in out
    made.check(tokens)

    def load():
        raise AssertionError("a model was loaded though the scores are whole")

    again = write_scores(
        tmp_path / "s",
        {"validation": tokens},
        {"weak": load, "strong": load},
        {"weak": "0", "strong": "1"},
        batch_size=8,
        precision="fp32",
    )
    assert again.fingerprint == made.fingerprint


def test_another_tokenizer_and_a_small_vocabulary_are_refused(tokens, tmp_path):
    with pytest.raises(ValueError, match="model 'weak' was trained with another tokenizer"):
        write_scores(
            tmp_path / "a",
            {"validation": tokens},
            references(tokens, tokenizer_fingerprint="x"),
            {},
            batch_size=8,
            precision="fp32",
        )
    small = Reference(
        build(DecoderConfig(vocab_size=64, layers=1, width=16, heads=2, kv_heads=1, ffn=24, max_seq_len=32), 0),
        "x",
        None,
        None,
    )
    with pytest.raises(ValueError, match="model 'weak' has a vocabulary of 64 tokens"):
        write_scores(
            tmp_path / "b",
            {"validation": tokens},
            {"weak": lambda: small},
            {"weak": "x"},
            batch_size=8,
            precision="fp32",
        )
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_scores_what_it_was_trained_on_is_warned_about(tokens, tmp_path, caplog):
    write_scores(
        tmp_path / "s",
        {"validation": tokens},
        references(tokens, trained_on=tokens.fingerprint),
        {},
        batch_size=64,
        precision="fp32",
    )
    assert "its losses measure memory as much as difficulty" in caplog.text
    warnings = open_manifest(tmp_path / "s", "scores").facts["warnings"]
    assert sum("was trained on slice 'validation'" in warning for warning in warnings) == 2


def test_a_model_of_nans_writes_nothing(tokens, tmp_path):
    model = decoder(tokens)
    model.norm.weight.data.fill_(float("nan"))
    bad = {"weak": lambda: Reference(model, "x", None, None)}
    with pytest.raises(ValueError, match="model 'weak' gives sample 0 of slice 'validation' a loss of nan"):
        write_scores(tmp_path / "s", {"validation": tokens}, bad, {"weak": "x"}, batch_size=64, precision="fp32")
    assert not (tmp_path / "s").exists()
