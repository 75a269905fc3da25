import numpy as np
import pytest
import torch

from curriculum.scores.text_scorer import TextScorer, windows_of
from curriculum.tokens.bytes import byte_lengths, token_bytes
from curriculum.tokens.tokenizer import TextTokenizer
from curriculum.tokens.tokens import Tokens
from models import DecoderConfig
from models.decoder import build


@pytest.fixture
def tokens(tokens_folder):
    return Tokens.open(tokens_folder, "validation")


def test_bytes_of_tokens_join_to_the_text(tokens):
    spelled = token_bytes(tokens.tokenizer_folder)
    text = "the cat sees caf\u00e9 \u732b\n"
    ids = TextTokenizer.open(tokens.tokenizer_folder).encode([text])[0]
    assert b"".join(spelled[i] for i in ids).decode() == text
    assert byte_lengths(tokens.tokenizer_folder)[tokens.end_of_text] == 0


def test_windows_score_every_token_once_within_the_limit():
    for length in (0, 1, 7, 8, 9, 16, 17, 40):
        ids = list(range(100, 100 + length))
        windows = windows_of([1], ids, 8)
        assert [token for whole, count in windows for token in whole[len(whole) - count :]] == ids
        assert all(len(whole) <= 9 for whole, _ in windows)


def test_with_the_same_tokenizer_text_costs_what_tokens_cost(tokens):
    """Equal except for the ends of documents, which text does not have."""
    config = DecoderConfig(
        vocab_size=tokens.vocab_size,
        layers=1,
        width=16,
        heads=2,
        kv_heads=1,
        ffn=24,
        max_seq_len=32,
        end_of_text=tokens.end_of_text,
    )
    model = build(config, 0)
    scorer = TextScorer(model, tokens.tokenizer_folder, tokens.end_of_text, 32, tokens)
    text = "the cat sees a tree"
    ids = [tokens.end_of_text, *TextTokenizer.open(tokens.tokenizer_folder).encode([text])[0].tolist()]
    expected = torch.nn.functional.cross_entropy(model.logits(torch.tensor([ids[:-1]]))[0], torch.tensor(ids[1:]))
    assert scorer.text_sums([text, "", text])[[0, 2]] == pytest.approx(expected.item() * (len(ids) - 1), rel=1e-5)
    samples = tokens.sample(np.arange(4))
    assert scorer.sample_sums(samples).shape == (4,)
    assert np.isfinite(scorer.sample_sums(samples)).all()
