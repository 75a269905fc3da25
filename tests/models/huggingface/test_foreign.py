"""Models of other architectures: each document's loss equals transformers' on it; unusable models are rejected."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from models.huggingface import check_scorer, foreign, load, load_scorer
from models.huggingface.admission import check_foreign
from models.huggingface.foreign import load_foreign
from models.huggingface.rows import document_rows
from models.kernels.interface import IGNORED

END = 3
VOCABULARY = 97
CPU = torch.device("cpu")

WIDE = {"vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "max_position_embeddings": 64}
KINDS: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "gpt_neox": {**WIDE, **HEADS},
    "qwen2": {**WIDE, **HEADS, "num_key_value_heads": 2},
    "phi": {**WIDE, **HEADS},  # a head with a bias
    "cohere": {**WIDE, **HEADS, "logit_scale": 0.3},  # logits are not the head's
    "opt": {"vocab_size": VOCABULARY, "hidden_size": 32, "ffn_dim": 48, "num_hidden_layers": 2, **HEADS},
    "mamba": {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},  # no attention
    "bert": {**WIDE, **HEADS, "is_decoder": False},
}
"""Shapes of tiny models by model_type."""


def saved(folder: Path, kind: str, **changes: Any) -> Any:
    """Save a random model of a type, every weight far from its initial value, and return it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(kind, **{**KINDS.get(kind, WIDE | HEADS), **ends, **changes})
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
    model.eval().save_pretrained(folder)
    return model


def samples() -> torch.Tensor:
    """Four samples of 41 ids: many documents, a one-token document, a sample of one document, and a short sample."""
    ids_BS = torch.randint(4, VOCABULARY, (4, 41), generator=torch.Generator().manual_seed(1))
    ids_BS[0, [0, 5, 6, 30]] = END
    ids_BS[2, [17, 40]] = END  # the last document of a sample begins with its last label
    ids_BS[3, [0, 9]] = END
    ids_BS[3, 13:] = IGNORED
    return ids_BS


def alone(model: Any, ids_BS: torch.Tensor) -> torch.Tensor:
    """Return the losses by transformers, one document at a time, without padding or mask."""
    losses_BT = torch.zeros(ids_BS.shape[0], ids_BS.shape[1] - 1)
    for row, ids_S in enumerate(ids_BS):
        real = int((ids_S != IGNORED).sum()) - 1
        starts = [place for place in range(real) if place == 0 or ids_S[place] == END]
        for start, stop in zip(starts, [*starts[1:], real], strict=True):
            with torch.no_grad():
                logits = model(ids_S[None, start:stop], use_cache=False).logits[0].float()
            losses_BT[row, start:stop] = cross_entropy(logits, ids_S[start + 1 : stop + 1], reduction="none")
    return losses_BT


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "qwen2", "phi", "cohere", "opt", "mamba"])
@pytest.mark.parametrize("few", [False, True])
def test_a_document_costs_what_transformers_says_of_it_alone(
    tmp_path: Path, kind: str, few: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if few:  # tokens in a pass, and logits at once
        monkeypatch.setattr(foreign, "TOKENS_AT_ONCE", 24)
        monkeypatch.setattr(foreign, "CHUNK_LOGITS", 7 * VOCABULARY)
    theirs = saved(tmp_path, kind)
    model, way = load_scorer(tmp_path, torch.float32, CPU, end_of_text=END, seq_len=40)
    assert type(theirs).__name__ in way
    assert ("whole logits" in way) == (kind == "cohere")
    assert model.vocab_size == VOCABULARY
    assert model.parameter_count() == theirs.num_parameters()
    losses_BT = model.losses(samples())
    expected_BT = alone(theirs, samples())
    assert losses_BT.dtype == torch.float32
    assert expected_BT.std() > 0.3  # else agreement says nothing
    torch.testing.assert_close(losses_BT, expected_BT, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_a_token_that_is_an_input_only_costs_nothing(tmp_path: Path, kind: str) -> None:
    saved(tmp_path, kind)
    never = int(samples()[0, 6])
    every, model = (
        load_scorer(tmp_path, torch.float32, CPU, end_of_text=END, input_only=token, seq_len=40)[0]
        for token in (None, never)
    )
    is_never_BT = samples()[:, 1:] == never
    assert is_never_BT.any()
    assert torch.equal(model.losses(samples()), every.losses(samples()).masked_fill(is_never_BT, 0))


def test_rows_are_long_first_and_hold_every_labelled_token_once() -> None:
    ids_BS = samples()
    seen, sizes = [], []
    for places_RL, real_RL in document_rows(ids_BS, END, 24):
        assert places_RL.numel() <= 24 or len(places_RL) == 1
        seen += places_RL[real_RL].tolist()
        sizes += real_RL.sum(dim=1).tolist()
    assert sorted(seen) == torch.nonzero((ids_BS[:, 1:] != IGNORED).flatten()).flatten().tolist()
    assert sizes == sorted(sizes, reverse=True)
    whole = [real_RL for _, real_RL in document_rows(ids_BS, None, 1 << 20)]
    assert [real_RL.shape for real_RL in whole] == [(3, 40), (1, 12)]  # not padded from 12 to 40


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True, "num_key_value_heads": 1}])
def test_both_ways_a_llama_has_the_same_losses(tmp_path: Path, changes: dict[str, Any]) -> None:
    saved(tmp_path, "llama", **changes)
    model, way = load_scorer(tmp_path, torch.float32, CPU, end_of_text=END, seq_len=40)
    assert way == "the decoder"
    other = load_foreign(tmp_path, torch.float32, CPU, end_of_text=END)
    assert model.vocab_size == other.vocab_size
    assert model.parameter_count() == other.parameter_count()
    torch.testing.assert_close(model.losses(samples()), other.losses(samples()), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_act": "gelu"},
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 900.0}},
    ],
)
def test_a_llama_that_the_decoder_cannot_compute_scores_through_transformers(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    theirs = saved(tmp_path, "llama", **changes)
    with pytest.raises(ValueError, match="not supported by the decoder"):
        load(tmp_path, torch.float32)
    model, way = load_scorer(tmp_path, torch.float32, CPU, end_of_text=END, seq_len=40)
    assert "LlamaForCausalLM of transformers" in way
    torch.testing.assert_close(model.losses(samples()), alone(theirs, samples()), atol=1e-5, rtol=1e-5)


def test_bf16_is_near(tmp_path: Path) -> None:
    theirs = saved(tmp_path, "gpt2")
    model, _ = load_scorer(tmp_path, torch.bfloat16, CPU, end_of_text=END, seq_len=40)
    losses_BT = model.losses(samples())
    assert losses_BT.dtype == torch.float32
    torch.testing.assert_close(losses_BT.mean(), alone(theirs, samples()).mean(), atol=0.05, rtol=0)


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _adapter(folder: Path) -> None:
    (folder / "adapter_config.json").write_text("{}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "modeling_trap.Trap"}}, "auto_map=.* which is never run"),
        ({"text_config": {"auto_map": {"AutoConfig": "x.Trap"}}}, "auto_map=.* which is never run"),
        ({"parts": [{"_attn_implementation": "someone/kernel"}]}, "_attn_implementation='someone/kernel' needs"),
        ({"attn_implementation": "someone/kernel"}, "attn_implementation='someone/kernel' needs external attention"),
        ({"quantization_config": {"bits": 4}}, "quantised weights are not supported"),
        ({"architectures": ["GPT2Model"]}, r"\['GPT2Model'\] is not a causal language model .* is GPT2LMHeadModel"),
        ({"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}, "is not a causal language model"),
        ({"n_positions": 39}, "positions end at 39 tokens .*seq_len=40"),
        (_pickled, r"contains no model.safetensors .* it has pytorch_model.bin, but pickles are never loaded"),
        (_adapter, "contains an adapter"),
    ],
)  # fmt: skip
def test_what_cannot_score_is_refused_at_the_door(tmp_path: Path, change: Any, message: str) -> None:
    saved(tmp_path, "gpt2")
    if callable(change):
        change(tmp_path)
    else:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message) as caught:
        check_scorer(tmp_path, END, 40)
    assert str(tmp_path) in str(caught.value)


OVERSIZED = {
    "n_layer": (10**6, "1,000,000 layers, but the weights in the folder have only 28 tensors"),
    "num_labels": (10**9, "num_labels=1,000,000,000 is more than 10,000"),
    "n_embd": (10**9, "transformers cannot build the model"),
    "n_positions": (10**9, "32,000,028,576 parameters and 0 bytes of tables, but the weights in the folder have only"),
    "vocab_size": (10**9, "parameters and 0 bytes of tables, but the weights in the folder have only"),
}
SCORE = """
import json, resource, sys
from pathlib import Path
import torch
from models.huggingface.admission import check_foreign
from models.huggingface.admission import check_foreign
from models.huggingface.foreign import load_foreign
folder = Path(sys.argv[1])
config = json.loads((folder / "config.json").read_text())
for changes in [{}, *({key: value} for key, value in json.loads(sys.argv[2]).items())]:
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    try:
        check_foreign(folder, 32)
        load_foreign(folder, torch.float32, torch.device("cpu"), end_of_text=3)
        print("loaded")
    except ValueError as error:
        print(*str(error).split())
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 30),) * 2)
"""


def test_a_config_that_the_weights_do_not_account_for_takes_no_memory(tmp_path: Path) -> None:
    saved(tmp_path, "gpt2")
    words = [str(tmp_path), json.dumps({key: value for key, (value, _) in OVERSIZED.items()})]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCORE, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    loaded, *refusals = done.stdout.splitlines()
    assert loaded == "loaded", done.stderr
    for (_, expected), refusal in zip(OVERSIZED.values(), refusals, strict=True):
        assert expected in refusal


def test_files_that_are_read_as_a_whole_have_a_limit(tmp_path: Path) -> None:
    saved(tmp_path, "gpt2")
    for name in ("generation_config.json", "config.json"):
        with open(tmp_path / name, "ab") as file:
            file.truncate(1 << 30)  # takes no disk
        with pytest.raises(ValueError, match=rf"{name} has 1,073,741,824 bytes, more than the 268,435,456"):
            check_foreign(tmp_path, 32)


def test_positions_stretched_by_longrope_end_where_stretching_begins(tmp_path: Path) -> None:
    rope = {"rope_type": "longrope", "long_factor": [2.0] * 4, "short_factor": [1.0] * 4, "rope_theta": 1e4}
    saved(tmp_path, "phi3", rope_parameters=rope, original_max_position_embeddings=32)
    with pytest.raises(ValueError, match="positions end at 32 tokens"):
        check_scorer(tmp_path, END, 40)


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "bert")
    with pytest.raises(ValueError, match=r"is not causal: .*; use a model that predicts the next token"):
        load_scorer(tmp_path, torch.float32, CPU, end_of_text=END, seq_len=40)


def test_tables_that_older_versions_stored_are_passed_over(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    theirs = saved(tmp_path, "gpt2")
    state = {
        name.removeprefix("transformer."): value for name, value in load_file(tmp_path / "model.safetensors").items()
    }
    state |= {"h.0.attn.bias": torch.ones(1, 1, 64, 64), "h.0.attn.masked_bias": torch.tensor(-1e4)}
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})  # as on the hub
    model = load_foreign(tmp_path, torch.float32, CPU, end_of_text=END)
    torch.testing.assert_close(model.losses(samples()), alone(theirs, samples()), atol=1e-5, rtol=1e-5)


def test_a_model_that_does_not_run_is_refused(tmp_path: Path) -> None:
    saved(tmp_path, "qwen2", num_key_value_heads=8)
    with pytest.raises(ValueError, match="Qwen2ForCausalLM of transformers does not run") as caught:
        load_foreign(tmp_path, torch.float32, CPU, end_of_text=END)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_layer": 3}, r"missing keys transformer\.h\.2.*\(12 in total\)"),
        ({"n_layer": 1}, r"unexpected keys transformer\.h\.1.*in total\)"),
        ({"vocab_size": 98}, r"mismatched keys .*wte"),
    ],
)
def test_weights_of_another_config_are_refused(
    tmp_path: Path, change: dict[str, Any], message: str, capfd: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path, "gpt2")
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    capfd.readouterr()
    with pytest.raises(ValueError, match=message) as caught:
        load_foreign(tmp_path, torch.float32, CPU, end_of_text=END)
    assert str(tmp_path) in str(caught.value)
    assert capfd.readouterr().err == ""  # no table from transformers in addition to our message
