"""Hugging Face export and import: transformers loads our exports and computes the same numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models.config import DecoderConfig
from models.decoder import Decoder, build
from models.huggingface import export, load

CONFIG = DecoderConfig(
    vocab_size=97, layers=2, width=32, heads=4, kv_heads=2, ffn=48, max_seq_len=64, rope_theta=5000.0, end_of_text=0
)


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}


def decoder_of(config: DecoderConfig) -> Decoder:
    """Return a decoder whose every weight, norms included, is far from its initial value."""
    decoder = build(config, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return decoder.eval()


def exported(folder: Path, config: DecoderConfig = CONFIG, **options: Any) -> Decoder:
    decoder = decoder_of(config)
    options = {"dtype": torch.float32, "tokenizer_folder": None, "card": None} | options
    export(folder, config, decoder.state_dict(), **options)
    return decoder


def random_ids() -> torch.Tensor:
    """Return ids without end-of-text: one document per row, as Llama sees it."""
    return torch.randint(1, 97, (3, 40), generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_transformers_computes_our_logits(tmp_path: Path, tied: bool, kv_heads: int) -> None:
    from transformers import AutoModelForCausalLM, LlamaForCausalLM

    config = replace(CONFIG, tie_embeddings=tied, kv_heads=kv_heads)
    decoder = exported(tmp_path / "hf", config)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    assert type(theirs) is LlamaForCausalLM
    ids = random_ids()
    with torch.no_grad():
        torch.testing.assert_close(decoder.logits(ids), theirs(ids, use_cache=False).logits, atol=1e-4, rtol=0)
    assert theirs.config.max_position_embeddings == 64
    assert (theirs.config.bos_token_id, theirs.config.eos_token_id) == (0, 0)


def test_a_bos_of_its_own_is_written_and_one_outside_the_vocabulary_is_not_read(tmp_path: Path) -> None:
    exported(tmp_path / "hf", bos=1)
    for name in ("config.json", "generation_config.json"):
        found = json.loads((tmp_path / "hf" / name).read_text())
        assert (found["bos_token_id"], found["eos_token_id"]) == (1, 0)
    exported(tmp_path / "default")
    path = tmp_path / "default" / "config.json"
    assert load(tmp_path / "default", torch.float32).config.end_of_text == 0
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token_id": 50256, "eos_token_id": 50256}))
    assert load(tmp_path / "default", torch.float32).config.end_of_text is None


@pytest.mark.parametrize("tied", [False, True])
def test_load_returns_the_same_decoder(tmp_path: Path, tied: bool) -> None:
    config = replace(CONFIG, tie_embeddings=tied)
    decoder = exported(tmp_path / "hf", config)
    again = load(tmp_path / "hf", torch.float32)
    assert again.config == config
    ids = torch.randint(0, 97, (2, 30), generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(again.logits(ids), decoder.logits(ids), atol=0, rtol=0)
    assert (again.head.weight is again.embedding.weight) == tied
    again(ids).total.backward()  # a loaded decoder trains


def llama_of(**changes: Any) -> Any:
    """Return a random LlamaForCausalLM, all weights, norms included, far from their initial values."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {
        "vocab_size": 97,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    torch.manual_seed(5)
    model = LlamaForCausalLM(LlamaConfig(**(shape | changes))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2 * (32 / model.config.hidden_size) ** 0.5)
    return model


@pytest.mark.parametrize("max_shard_size", ["1GB", "20kB"])
@pytest.mark.parametrize(
    "changes",
    [
        {"tie_word_embeddings": True},
        {"tie_word_embeddings": False},
        {"num_key_value_heads": 1},
        {"num_key_value_heads": 4, "rope_theta": 500.0},
        {"head_dim": 16, "rms_norm_eps": 1e-3},
        {"head_dim": 6, "num_key_value_heads": 1, "tie_word_embeddings": True},
        {"hidden_size": 128, "num_attention_heads": 1, "num_key_value_heads": 1},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 900.0}},
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 900.0} | LLAMA3},
    ],
)
def test_both_ways_the_logits_are_those_of_transformers(
    tmp_path: Path, changes: dict[str, Any], max_shard_size: str
) -> None:
    from transformers import LlamaForCausalLM

    theirs = llama_of(**changes)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size=max_shard_size)
    assert (len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1) == (max_shard_size == "20kB")
    ours = load(tmp_path / "theirs", torch.float32)
    assert ours.config.end_of_text is None  # different first and last tokens: one segment, as in Llama
    assert load(tmp_path / "theirs", torch.float32, end_of_text=1).config.end_of_text == 1
    export(tmp_path / "ours", ours.config, ours.state_dict(), dtype=torch.float32, tokenizer_folder=None, card=None)
    again = LlamaForCausalLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    ids = random_ids()
    with torch.no_grad():
        expected = theirs(ids, use_cache=False).logits
        assert expected.std() > 0.3  # else agreement says nothing
        torch.testing.assert_close(ours.logits(ids), expected, atol=1e-4, rtol=0)
        torch.testing.assert_close(again(ids, use_cache=False).logits, expected, atol=1e-4, rtol=0)
    for name, value in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_the_older_names_of_scaled_positions_are_read(tmp_path: Path) -> None:
    exported(tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    raw = json.loads(path.read_text())
    del raw["rope_parameters"]
    for scaling, kind in (({"type": "linear", "factor": 2}, "linear"), ({"rope_type": "llama3"} | LLAMA3, "llama3")):
        path.write_text(json.dumps(raw | {"rope_theta": 700.0, "rope_scaling": scaling}))
        config = load(tmp_path / "hf", torch.float32).config
        assert (config.rope_scaling, config.rope_theta, config.rope_factor) == (kind, 700.0, scaling["factor"])
    path.write_text(json.dumps(raw | {"rope_theta": 700.0, "rope_scaling": {"type": "linear", "factor": 1.0}}))
    assert load(tmp_path / "hf", torch.float32).config.rope_scaling == "none"


def test_static_ntk_is_written_as_a_larger_base(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    decoder = exported(tmp_path / "hf", replace(CONFIG, rope_scaling="ntk", rope_factor=4.0))
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    ids = random_ids()
    with torch.no_grad():
        expected = decoder.logits(ids)
        torch.testing.assert_close(theirs(ids, use_cache=False).logits, expected, atol=1e-4, rtol=0)
        assert not torch.allclose(exported(tmp_path / "plain").logits(ids), expected, atol=1e-2)
    assert load(tmp_path / "hf", torch.float32).config.rope_theta == pytest.approx(5000.0 * 4 ** (8 / 6))


@pytest.mark.parametrize("tied", [False, True])
def test_training_costs_what_it_costs_there(tmp_path: Path, tied: bool) -> None:
    """Equal weights, data and AdamW in float32: equal losses over 50 steps."""
    theirs = llama_of(tie_word_embeddings=tied).train()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load(tmp_path / "theirs", torch.float32).train()
    generator = torch.Generator().manual_seed(6)
    steps = [torch.randint(1, 97, (4, 33), generator=generator) for _ in range(5)] * 10

    def losses(model: torch.nn.Module, mean: Callable[[torch.Tensor], torch.Tensor]) -> list[float]:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
        found = []
        for ids in steps:
            loss = mean(ids)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            found.append(loss.item())
        return found

    ours_S = losses(ours, lambda ids: ours(ids).total / ids[:, 1:].numel())
    theirs_S = losses(theirs, lambda ids: theirs(input_ids=ids, labels=ids, use_cache=False).loss)
    torch.testing.assert_close(torch.tensor(ours_S), torch.tensor(theirs_S), atol=1e-4, rtol=0)
    assert ours_S[-1] < ours_S[0] - 1.0


def test_large_models_are_sharded(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    decoder = exported(tmp_path / "hf", max_shard_bytes=20_000)
    files = sorted((tmp_path / "hf").glob("*.safetensors"))
    index = json.loads((tmp_path / "hf" / "model.safetensors.index.json").read_text())
    assert len(files) > 2
    assert not (tmp_path / "hf" / "model.safetensors").exists()
    assert set(index["weight_map"].values()) == {path.name for path in files}
    assert index["metadata"]["total_size"] == 4 * CONFIG.parameter_count()
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    ids = random_ids()
    with torch.no_grad():
        torch.testing.assert_close(theirs(ids, use_cache=False).logits, decoder.logits(ids), atol=1e-4, rtol=0)
    torch.testing.assert_close(load(tmp_path / "hf", torch.float32).logits(ids), decoder.logits(ids), atol=0, rtol=0)


def test_dtype_is_stored_and_honoured(tmp_path: Path) -> None:
    decoder = exported(tmp_path / "hf", dtype=torch.bfloat16)
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == "bfloat16"
    again = load(tmp_path / "hf", torch.float32)
    assert again.embedding.weight.dtype == torch.float32
    torch.testing.assert_close(again.embedding.weight, decoder.embedding.weight.bfloat16().float(), atol=0, rtol=0)


def test_tokenizer_and_card_travel_along(tmp_path: Path) -> None:
    source = tmp_path / "tokenizer"
    source.mkdir()
    (source / "tokenizer.json").write_text("{}")
    (source / "tokenizer_config.json").write_text("{}")
    (source / "modeling_trap.py").write_text("raise SystemExit")
    exported(tmp_path / "hf", tokenizer_folder=source, card="# A card\n")
    names = {path.name for path in (tmp_path / "hf").iterdir()}
    assert {"tokenizer.json", "tokenizer_config.json", "generation_config.json", "README.md"} <= names
    assert "modeling_trap.py" not in names
    assert (tmp_path / "hf" / "README.md").read_text() == "# A card\n"
    with pytest.raises(ValueError, match=r"contains no tokenizer\.json"):
        exported(tmp_path / "other", tokenizer_folder=tmp_path)
    assert not (tmp_path / "other").exists()


def test_export_writes_into_a_new_or_empty_folder_alone(tmp_path: Path) -> None:
    exported(tmp_path)
    with pytest.raises(ValueError, match="exists and is not an empty folder: name a new one"):
        exported(tmp_path)
    with pytest.raises(ValueError, match="exists and is not an empty folder"):
        exported(tmp_path / "config.json")


def test_export_refuses_wrong_tensors(tmp_path: Path) -> None:
    state = decoder_of(CONFIG).state_dict()
    options: dict[str, Any] = {"dtype": torch.float32, "tokenizer_folder": None, "card": None}
    with pytest.raises(ValueError, match=r"missing tensors norm\.weight, unexpected tensors extra"):
        export(
            tmp_path / "hf",
            CONFIG,
            {k: v for k, v in state.items() if k != "norm.weight"} | {"extra": state["norm.weight"]},
            **options,
        )
    with pytest.raises(ValueError, match=r"embedding\.weight has shape \(97, 32\), the config says \(98, 32\)"):
        export(tmp_path / "hf", replace(CONFIG, vocab_size=98), state, **options)
    with pytest.raises(ValueError, match=r"head\.weight differs from embedding\.weight"):
        export(tmp_path / "hf", replace(CONFIG, tie_embeddings=True), state, **options)
    with pytest.raises(ValueError, match=r"dtype torch\.int8 cannot be written: choose one of float32"):
        export(tmp_path / "hf", CONFIG, state, **(options | {"dtype": torch.int8}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}, "only LlamaForCausalLM can be loaded"),
        ({"attention_bias": True}, "attention_bias=True is not supported"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu' is not supported"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 8.0}}, r"rotary positions .*'yarn'.* are not supported"),
        ({"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}}, "are not supported"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}, "only full-head RoPE"),
        ({"rope_parameters": {"rope_type": "llama3", "factor": 8.0}}, "lacks original_max_position_embeddings, low_fr"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "linear scaling lacks factor"),
        ({"head_dim": 16}, r"self_attn\.q_proj\.weight has shape \(32, 32\), the config says \(64, 32\)"),
        ({"head_dim": 7}, "explicit_head_size=7 must be even"),
        ({"num_key_value_heads": 3}, "kv_heads=3 must divide model.heads=4"),
        ({"num_attention_heads": 0}, "model.heads must be an integer of at least 1, not 0"),
        ({"quantization_config": {"bits": 4}}, "quantised weights are not supported"),
        ({"num_hidden_layers": 3}, r"missing tensors model\.layers\.2\.input_layernorm\.weight, .* and 5 more"),
        ({"num_hidden_layers": 1}, r"unexpected tensors model\.layers\.1\.input_layernorm\.weight"),
        ({"intermediate_size": 64}, r"mlp\.gate_proj\.weight has shape \(48, 32\), the config says \(64, 32\)"),
        ({"hidden_size": "32"}, "hidden_size='32' is not an integer"),
        ({"tie_word_embeddings": True}, "lm_head.weight differs from the embedding"),
    ],
)  # fmt: skip
def test_load_refuses_what_it_would_compute_differently(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    exported(tmp_path / "hf")
    path = tmp_path / "hf" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path / "hf", torch.float32)
    assert str(tmp_path / "hf") in str(caught.value)


def _pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def _escaping(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"model.norm.weight": "../model.safetensors"}})
    )


def _no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def _no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_pickled, r"it has pytorch_model\.bin, but pickles are never loaded"),
        (_escaping, r"lists '\.\./model\.safetensors', which is not a safetensors file in the folder"),
        (_no_json, r"config\.json is not JSON"),
        (_no_config, r"config\.json does not exist: name a folder"),
    ],
)
def test_load_names_what_is_wrong_with_the_folder(tmp_path: Path, damage: Callable[[Path], None], message: str) -> None:
    exported(tmp_path / "hf")
    damage(tmp_path / "hf")
    with pytest.raises(ValueError, match=message):
        load(tmp_path / "hf", torch.float32)
