"""BOS at a document's start is an input and never a label: in training, in held-out losses and in scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from curriculum.arrange import arrange
from curriculum.scores.baseline import baselines_of
from curriculum.scores.columns import SampleColumns
from curriculum.scores.scorer import ChunkScorer, Reference, ScoringOptions
from curriculum.tokens.bytes import byte_lengths, bytes_of
from curriculum.tokens.tokens import IGNORED, Tokens
from curriculum.work.chunks import Chunk
from models.config import DecoderConfig
from models.decoder import Decoder, build
from tests.curriculum.tokens.test_special import framed, prepare
from train.batches import batches
from train.distributed.world import World
from train.evaluation.heldout import HeldoutSettings, evaluate_heldout
from train.objectives.language_model import LanguageModel

SINGLE = World(0, 1, 0, 1, torch.device("cpu"))
BOS = 0
SHAPE = {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "ffn": 24, "max_seq_len": 16}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same text prepared without and with BOS."""
    found = {}
    for name in ("plain", "with"):
        root = tmp_path_factory.mktemp(name)
        prepare(root, str(framed(root / "given", "llama")), bos=name == "with", validation_fraction=0.5)
        found[name] = root / "tokens"
    return found


@pytest.fixture
def tokens(folders: dict[str, Path]) -> Tokens:
    found = Tokens.open(folders["with"], "validation")
    rows = found.sample(np.arange(len(found)))
    assert (rows[:, 1:] == BOS).any(axis=1).sum() > 5, "BOS follows end-of-text inside many samples"
    return found


def decoder_of(tokens: Tokens, *, input_only: bool = True) -> Decoder:
    never = tokens.input_only if input_only else None
    config = DecoderConfig(vocab_size=tokens.vocab_size, end_of_text=tokens.end_of_text, input_only=never, **SHAPE)
    return build(config, 0)


def real_of(tokens: Tokens) -> np.ndarray:
    labels = tokens.sample(np.arange(len(tokens)))[:, 1:]
    return (labels != IGNORED) & (labels != BOS)


def test_a_sample_has_the_labels_that_the_text_has(folders: dict[str, Path], tokens: Tokens) -> None:
    plain, ids = Tokens.open(folders["plain"], "validation"), np.arange(len(tokens))
    assert plain.input_only is None
    assert (tokens.bos, tokens.input_only) == (BOS, BOS)
    assert tokens.real_tokens(ids).tolist() == real_of(tokens).sum(axis=1).tolist()
    assert ((tokens.labels(ids) != IGNORED) == real_of(tokens)).all()
    assert tokens.real_tokens(ids).sum() == plain.real_tokens(np.arange(len(plain))).sum()
    apart = np.array([len(tokens) - 1, 0, 0])  # far apart: counted by reading them
    assert tokens.real_tokens(apart).tolist() == real_of(tokens)[apart].sum(axis=1).tolist()
    for first in (1, 5, 16, 99):
        assert tokens.real_tokens(ids, first).tolist() == real_of(tokens)[:, :first].sum(axis=1).tolist()
    assert tokens.real_tokens([]).tolist() == []


def test_training_has_no_gradient_from_it(folders: dict[str, Path], tokens: Tokens, tmp_path: Path) -> None:
    settings = arrange.ArrangeSettings(
        tokens=str(folders["with"]), slice="validation", output=str(tmp_path / "order"), batch_size=8, stages=1
    )
    batch = next(batches(arrange.run(settings), tokens, SINGLE, 4, 0, LanguageModel(tokens)))
    real = real_of(tokens)
    assert batch.tokens_N.tolist() == real[batch.ids].sum(axis=1).tolist()
    assert batch.global_tokens == batch.global_count == real[batch.ids].sum()
    ids_BS, documents = batch.micro_batches[0]
    weights_BT = torch.from_numpy(real[batch.ids[:4]]).float()
    assert (weights_BT == 0).any()
    model, every = decoder_of(tokens), decoder_of(tokens, input_only=False)
    ours, theirs = model(ids_BS, documents), every(ids_BS, documents, weights_BT=weights_BT)
    assert torch.equal(ours.losses_BT, theirs.losses_BT * weights_BT)
    assert ours.total.item() == pytest.approx(theirs.total.item())
    ours.total.backward()
    theirs.total.backward()
    for one, other in zip(model.parameters(), every.parameters(), strict=True):
        assert torch.allclose(one.grad, other.grad, atol=1e-6)


def test_held_out_losses_and_bits_per_byte_are_of_the_text(tokens: Tokens) -> None:
    model, every, ids = decoder_of(tokens), decoder_of(tokens, input_only=False), np.arange(len(tokens))
    samples = tokens.sample(ids)
    nats = (every.losses(torch.from_numpy(samples)).double().numpy() * real_of(tokens)).sum()
    lengths = byte_lengths(tokens.tokenizer_folder)
    assert lengths is not None
    values = evaluate_heldout(model, tokens, None, HeldoutSettings(), SINGLE).values
    assert values["val/loss"] == pytest.approx(nats / real_of(tokens).sum(), rel=1e-6)
    bits = nats / np.log(2) / bytes_of(samples[:, 1:], lengths).sum()
    assert values["val/bits_per_byte"] == pytest.approx(bits, rel=1e-6)


@pytest.mark.parametrize("first", [None, 5])
def test_scores_are_means_over_the_other_labels(tokens: Tokens, first: int | None) -> None:
    every = decoder_of(tokens, input_only=False)
    real = real_of(tokens)[:, :first]
    losses = every.losses(torch.from_numpy(tokens.sample(np.arange(len(tokens))))).double().numpy()[:, :first]
    reference = Reference(decoder_of(tokens), "x", tokens.tokenizer_fingerprint, None)
    options = ScoringOptions(7, "fp32", documents=first is None, first_tokens=first)
    columns = ChunkScorer({"validation": tokens}, {"weak": reference}, options).score(
        Chunk("validation", 0, 0, len(tokens))
    )
    assert columns["loss_weak"] == pytest.approx((losses * real).sum(axis=1) / real.sum(axis=1), rel=1e-5)
    assert columns["tokens"].tolist() == real_of(tokens).sum(axis=1).tolist()
    if first is None:
        assert columns["document_tokens"].sum() == real.sum()
        assert columns["nats_weak"].sum() == pytest.approx((losses * real).sum(), rel=1e-6)
    weights = next(SampleColumns(tokens, None, None).chunks([])).weight_N
    assert weights.tolist() == real_of(tokens).sum(axis=1).tolist()


def test_token_frequencies_leave_it_out(folders: dict[str, Path], tokens: Tokens) -> None:
    """Counted as a label it would be common and cheap: 20 documents in 40 samples."""
    plain = baselines_of(Tokens.open(folders["plain"], "validation")).unigram
    assert plain is not None
    assert baselines_of(tokens).unigram == pytest.approx(plain, rel=0.02)
