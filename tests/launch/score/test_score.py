"""`pdpc score` with models of other architectures."""

import logging
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn.functional import cross_entropy

from curriculum.artifact.manifest import open_manifest
from curriculum.scores.cheap.prediction import chosen
from curriculum.scores.own import OwnScores
from curriculum.scores.scores import Scores
from curriculum.tokens.tokens import Tokens
from launch.cli import main
from models.config import DecoderConfig
from models.decoder import build
from models.huggingface import export


def gpt2(folder: Path, tokens: Tokens, **changes):
    from transformers import GPT2Config, GPT2LMHeadModel

    shape = {"vocab_size": tokens.vocab_size, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": tokens.seq_len}
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(**{**shape, "bos_token_id": 0, "eos_token_id": 0, **changes})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tokens.tokenizer_folder / name, folder)
    return model


@pytest.fixture
def llama(tmp_path, tokens_folder):
    tokens = Tokens.open(tokens_folder)
    config = DecoderConfig(
        vocab_size=320,
        layers=1,
        width=16,
        heads=2,
        kv_heads=2,
        ffn=16,
        max_seq_len=tokens.seq_len,
        end_of_text=tokens.end_of_text,
    )
    state = build(config, 0).state_dict()
    export(tmp_path / "llama", config, state, dtype=torch.float32, tokenizer_folder=tokens.tokenizer_folder, card=None)
    return tmp_path / "llama"


def score(tokens_folder, weak, strong, output):
    words = [f"tokens={tokens_folder}", f"models.weak={weak}", f"models.strong={strong}", f"output={output}"]
    return main(["score", *words, "slices=[validation]"])


def mean_by_document(model, ids_S, end_of_text):
    """Return a sample's mean loss, with its documents evaluated one by one."""
    real_S = ids_S[ids_S >= 0]
    starts = [0, *(torch.nonzero(real_S[1:-1] == end_of_text).flatten() + 1).tolist()]
    total = 0.0
    for start, stop in zip(starts, [*starts[1:], len(real_S) - 1], strict=True):
        with torch.no_grad():
            logits = model(real_S[None, start:stop]).logits[0]
        total += float(cross_entropy(logits, real_S[start + 1 : stop + 1], reduction="sum"))
    return total / (len(real_S) - 1)


def test_gpt2_and_a_llama(tmp_path, tokens_folder, llama, caplog):
    tokens = Tokens.open(tokens_folder, "validation")
    model = gpt2(tmp_path / "gpt2", tokens)
    with caplog.at_level(logging.INFO):
        assert score(tokens_folder, tmp_path / "gpt2", llama, tmp_path / "scores") == 0
    assert "model 'weak' is scored by GPT2LMHeadModel of transformers (the head by chunks)" in caplog.text
    assert "model 'strong' is scored by the decoder" in caplog.text
    scores = Scores.open(tmp_path / "scores", "validation")
    scores.check(tokens)
    assert np.isfinite(scores.column("pd")).all()
    weak = scores.column("loss_weak")
    ends_NT = tokens.sample(np.arange(len(tokens)))[:, 1:-1] == tokens.end_of_text
    several = np.flatnonzero(ends_NT.any(axis=1))  # samples of more than one document
    for sample in (0, *several[:3], len(tokens) - 1):
        ids_S = torch.from_numpy(tokens.sample([sample])[0])
        assert weak[sample] == pytest.approx(mean_by_document(model, ids_S, tokens.end_of_text), abs=1e-5)
    described = open_manifest(tmp_path / "scores", "scores").facts["models"]["weak"]
    assert described["parameters"] == model.num_parameters()
    assert described["scored_by"].startswith("GPT2LMHeadModel")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_positions": 31}, "positions end at 31 tokens (max_position_embeddings), but samples have seq_len=32"),
        ({"vocab_size": 290}, "model 'weak' has a vocabulary of 290 tokens"),
    ],
)
def test_a_gpt2_that_cannot_read_the_samples_is_refused(tmp_path, tokens_folder, llama, capsys, changes, message):
    gpt2(tmp_path / "gpt2", Tokens.open(tokens_folder), **changes)
    capsys.readouterr()
    assert score(tokens_folder, tmp_path / "gpt2", llama, tmp_path / "scores") == 2
    error = capsys.readouterr().err.strip()
    assert message in error
    assert "\n" not in error
    assert not (tmp_path / "scores").exists()


def test_documents_a_picture_and_cheap_scores(tmp_path, tokens_folder, llama, capsys):
    tokens = Tokens.open(tokens_folder, "validation")
    gpt2(tmp_path / "gpt2", tokens)
    words = [f"tokens={tokens_folder}", f"models.weak={tmp_path / 'gpt2'}", f"models.strong={llama}", "processes=1"]
    words.append("slices=[validation]")
    picture = tmp_path / "pd.svg"
    whole = tmp_path / "whole"
    assert main(["score", *words, "documents=true", f"picture={picture}", f"output={whole}"]) == 0
    assert "<svg" in picture.read_text()
    scores = Scores.open(whole, "validation")
    table = pq.read_table(whole / "validation.documents.parquet")
    assert sorted(table["document"].to_pylist()) == sorted(tokens.origins.tolist())
    assert sum(table["tokens"].to_pylist()) == scores.column("tokens").sum()
    assert sum(table["bytes"].to_pylist()) == scores.column("bytes").sum()
    nats = np.dot(table["loss_weak"].to_numpy(), table["tokens"].to_numpy())
    assert nats == pytest.approx(np.dot(scores.column("loss_weak"), scores.column("tokens")), rel=1e-5)
    assert OwnScores(whole / "validation.documents.parquet").by == "document"

    assert main(["score", *words, "first_tokens=8", f"output={tmp_path / 'first'}"]) == 0
    assert main(["score", *words, "fraction=0.6", "first_tokens=8", f"output={tmp_path / 'part'}"]) == 0
    exact, part = scores.column("loss_weak"), Scores.open(tmp_path / "part", "validation").column("loss_weak")
    scored = chosen(np.arange(len(tokens)), 0.6)
    assert part[scored] == pytest.approx(exact[scored], abs=1e-5)
    assert np.isfinite(part).all()
    capsys.readouterr()
    assert main(["score", *words, "trial=120", f"output={tmp_path / 'none'}", f"trial_models.weak={llama}"]) == 0
    shown = capsys.readouterr().out
    assert "first_tokens=8" in shown
    assert "models.weak=trial_models.weak" in shown
    assert "recommended: " in shown or "none of them reaches 0.95: score exactly; the best is " in shown
    assert not (tmp_path / "none").exists()


def test_on_text_a_model_with_a_small_vocabulary_needs_no_token_of_ours(tmp_path, tokens_folder, llama, capsys):
    """end_of_text of TOKENS may lie outside its vocabulary, and so may GPT-2's default bos and eos."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from curriculum.tokens.tokenizer import train_tokenizer

    tokens = Tokens.open(tokens_folder, "validation")
    small = train_tokenizer(["the cat sees"], 257)
    assert small.vocab_size < tokens.vocab_size
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 0}
    for end in (0, 50256):
        config = LlamaConfig(vocab_size=small.vocab_size, **shape, **dict.fromkeys(ends, end))
        LlamaForCausalLM(config).save_pretrained(tmp_path / f"small{end}")
    gpt2(tmp_path / "gpt2", tokens, vocab_size=small.vocab_size, **dict.fromkeys(ends, 50256))
    for number, name in enumerate(("small0", "small50256", "gpt2")):
        small.save(tmp_path / name)
        assert score(tokens_folder, tmp_path / name, llama, tmp_path / f"scores{number}") == 0, capsys.readouterr().err
        assert np.isfinite(Scores.open(tmp_path / f"scores{number}", "validation").column("pd")).all()
    (tmp_path / "gpt2" / "tokenizer_config.json").unlink()
    capsys.readouterr()
    assert score(tokens_folder, tmp_path / "gpt2", llama, tmp_path / "none") == 2
    assert "names only tokens outside its vocabulary of 257 (bos_token_id=50256" in capsys.readouterr().err


def test_on_text_a_tokenizer_larger_than_the_model_is_named(tmp_path, tokens_folder, llama, capsys):
    from curriculum.tokens.tokenizer import train_tokenizer

    gpt2(tmp_path / "gpt2", Tokens.open(tokens_folder), vocab_size=60)
    train_tokenizer(["the cat sees"], 262).save(tmp_path / "gpt2")
    assert score(tokens_folder, tmp_path / "gpt2", llama, tmp_path / "scores") != 0
    assert "but the model has a vocabulary of 60: put the tokenizer.json of that model there" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trial=9", "trial_models.other=x"], "trial_models: 'other' is not one of the models ['weak'] to replace"),
        (["trial_models.weak=x"], "trial_models needs trial=N"),
    ],
)
def test_models_for_a_trial_replace_others(capsys, words, message):
    assert main(["score", "tokens=t", "models.weak=w", "output=o", *words]) == 2
    assert message in capsys.readouterr().err
