"""`pdpc evaluate folder=` takes TOKENS of the folder's own tokenizer, even if it adds special tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from curriculum.tokens.tokens import Tokens
from launch.cli import main
from models.config import DecoderConfig
from models.decoder import build
from models.huggingface import export
from tests.curriculum.tokens.test_special import framed, prepare


@pytest.mark.parametrize("bos", [False, True])
def test_tokens_prepared_with_a_folders_tokenizer_fit_it(tmp_path: Path, bos: bool) -> None:
    given = framed(tmp_path / "given", "llama")
    prepare(tmp_path, str(given), bos=bos, validation_fraction=0.3)
    size = Tokens.open(tmp_path / "tokens").vocab_size
    config = DecoderConfig(
        vocab_size=size, layers=1, width=16, heads=2, kv_heads=2, ffn=16, max_seq_len=16, end_of_text=1
    )
    state = build(config, 0).state_dict()
    export(tmp_path / "hf", config, state, dtype=torch.float32, tokenizer_folder=given, card=None, bos=0)
    assert main(["evaluate", f"folder={tmp_path / 'hf'}", f"tokens={tmp_path / 'tokens'}"]) == 0
