"""Sides of benchmarks without a separate test, at a small size: they run and agree with each other."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from benchmarks import (
    arrange_memory,
    deepspeed_curriculum,
    hf_parity,
    reading,
    score_file,
    score_parity,
    scoring,
    token_data,
)
from curriculum.tokens.tokenizer import TextTokenizer, train_tokenizer
from models.config import DecoderConfig
from models.decoder import build
from models.huggingface import export

SIZES = (
    "--layers 1 --width 32 --heads 2 --kv-heads 1 --ffn 48 --vocabulary 97 --length 48 --document 12 --documents 6"
    " --batch 64 --batch-size 4 --rounds 1 --threads 1"
)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model with a byte tokenizer, as a Hugging Face folder."""
    folder = tmp_path_factory.mktemp("llama")
    train_tokenizer(["text"], 257).save(folder / "tokenizer")
    config = DecoderConfig(
        vocab_size=257,
        layers=1,
        width=16,
        heads=2,
        kv_heads=2,
        ffn=16,
        max_seq_len=256,
        end_of_text=TextTokenizer.open(folder / "tokenizer").end_of_text,
    )
    state = build(config, 0).state_dict()
    export(folder / "hf", config, state, dtype=torch.float32, tokenizer_folder=folder / "tokenizer", card=None)
    return folder / "hf"


@pytest.fixture
def models(tmp_path: Path) -> dict[str, Any]:
    """Settings of `scoring`, with both models written."""
    settings = {**vars(scoring._options(SIZES.split())), "models": str(tmp_path / "models")}
    scoring._write_models(settings)
    return settings


def test_all_sides_of_scoring_find_the_same_losses(models: dict[str, Any]) -> None:
    ours = scoring.packed(models)
    assert ours["tokens"] == scoring.roof(models)["tokens"] == sum(len(ids) - 1 for ids in scoring.documents(models))
    assert len(ours["losses"]) == 6
    for side in (scoring.padded, scoring.harness):
        np.testing.assert_allclose(side(models)["losses"], ours["losses"], atol=1e-4, rtol=0)


def test_scoring_reports_what_its_sides_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measure(module: str, side: str, settings: Any, work: Path, environment: dict[str, str]) -> dict[str, Any]:
        assert (module, environment["OMP_NUM_THREADS"]) == ("scoring", "1")
        seconds, extra = {"packed": (1.0, 1), "roof": (0.9, 1), "padded": (3.0, 10), "harness": (1.4, 10)}[side]
        facts = {"seconds": seconds, "tokens": 100, "losses": [2.0, 3.0]}
        return {**facts, "extra_bytes": extra << 20, "peak_bytes": 1}

    monkeypatch.setattr(scoring, "measure", measure)
    kept: list[Any] = []
    monkeypatch.setattr(scoring, "finish", lambda result, keep: kept.append(result))
    scoring.main([*SIZES.split(), "--samples", "0"])
    assert [check.held for check in kept[0].checks] == [True, False, True, True, True, True]


def test_our_side_of_reading_reads_every_token(tmp_path: Path) -> None:
    token_data._write_tokens(tmp_path / "made", token_data.documents(10, 16, 3), 16)
    facts = reading.pdpc({"tokens": str(tmp_path / "made"), "batch_size": 1, "length": 16})
    assert facts["samples"] == 10
    assert facts["token_sum"] == sum(int(piece.sum(dtype=np.int64)) for piece in token_data.documents(10, 16, 3))


def test_all_sides_of_arrange_memory_give_every_sample_once(tmp_path: Path) -> None:
    scores = arrange_memory._write_scores(tmp_path, 3000, seed=1)
    settings = {"scores": str(scores), "preference": "pdpc", "batch_size": 64, "seed": 1}
    sides = [arrange_memory.pdpc, arrange_memory.numpy]
    assert {side(settings)["id_sum"] for side in sides} == {3000 * 2999 // 2}


def test_our_side_of_the_curriculum_resumes_with_the_same_ids(tmp_path: Path) -> None:
    scores = score_file.write_scores(tmp_path, 3000, 1)
    settings = {"scores": str(scores), "ours": str(tmp_path / "order"), "samples": 3000, "batch_size": 64, "seed": 1}
    facts = deepspeed_curriculum.pdpc(settings)
    assert facts["resumed_equal"] == facts["resumed_batches"] == 47 - 23
    assert facts["never_seen"] == facts["seen_again"] == 0


def test_logits_of_a_model_are_compared_both_ways(llama: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hf_parity.main([str(llama), "--tokens", "64"]) == 0
    assert "at most 0.0001: held" in capsys.readouterr().out


def test_losses_of_texts_are_compared_with_both_peers(
    llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(pa.table({"text": ["one text", "another, a little longer"]}), tmp_path / "text.parquet")
    words = [str(llama), str(tmp_path / "text.parquet"), "--documents", "2", "--harness"]
    assert score_parity.main(words) == 0
    output = capsys.readouterr().out
    assert "transformers: 2 documents" in output
    assert "lm-eval loglikelihood_rolling: 2 documents" in output
