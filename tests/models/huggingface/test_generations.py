"""Transformers 4 and 5 read the same model and tokenizer from an export, and we read what either saves again.

`make test` runs this with the installed transformers; `make check-export` with transformers 4.57 too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from curriculum.tokens.tokenizer import TextTokenizer, train_tokenizer
from models.config import DecoderConfig
from models.decoder import Decoder, build
from models.huggingface import check_scorer, export, load
from models.huggingface.tokenizer import readable_config

CONFIG = DecoderConfig(
    layers=2, width=32, heads=4, kv_heads=2, ffn=48, vocab_size=320, max_seq_len=64, rope_theta=500000.0, end_of_text=0
)
LLAMA3 = {"rope_original_seq_len": 32, "rope_low_factor": 1.0, "rope_high_factor": 4.0}
EXPORTS: dict[str, tuple[DecoderConfig, dict[str, Any]]] = {
    "large_base": (CONFIG, {}),
    "default_base": (replace(CONFIG, rope_theta=10000.0, end_of_text=None), {}),
    "linear": (replace(CONFIG, rope_scaling="linear", rope_factor=4.0), {}),
    "llama3": (replace(CONFIG, rope_scaling="llama3", rope_factor=8.0, **LLAMA3), {}),
    "ntk": (replace(CONFIG, rope_scaling="ntk", rope_factor=4.0), {}),
    "tied_one_kv_head": (replace(CONFIG, tie_embeddings=True, kv_heads=1, norm_eps=1e-3), {}),
    "head_size": (replace(CONFIG, explicit_head_size=16), {}),
    "bf16_sharded": (CONFIG, {"dtype": torch.bfloat16, "max_shard_bytes": 20_000}),
    "fp16": (replace(CONFIG, rope_theta=1e6), {"dtype": torch.float16}),
    "tokenizer": (CONFIG, {"tokenizer_folder": "plain"}),
    "tokenizer_of_5": (CONFIG, {"tokenizer_folder": "of_5"}),
}
OF_5 = {
    "backend": "tokenizers",
    "eos_token": "<|endoftext|>",
    "extra_special_tokens": ["<extra>"],
    "is_local": True,
    "tokenizer_class": "TokenizersBackend",
}
PYTHONS = [sys.executable, *filter(None, [os.environ.get("PDPC_TRANSFORMERS4")])]


@dataclass(frozen=True)
class Loaded:
    """What one version of transformers made of the exports in `folder`."""

    folder: Path
    ids: torch.Tensor
    logits: dict[str, torch.Tensor]
    found: dict[str, Any]


def decoder_of(config: DecoderConfig) -> Decoder:
    """Return a decoder whose logits depend visibly on its positions."""
    decoder = build(config, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return decoder.eval()


def write_tokenizers(folder: Path) -> None:
    text = ["Tomorrow, we will see words and more words: naïve ones. " * 9]
    train_tokenizer(text, 300).save(folder / "plain")
    data = json.loads((folder / "plain" / "tokenizer.json").read_text("utf-8"))
    plain = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    number = max(max(data["model"]["vocab"].values()), max(entry["id"] for entry in data["added_tokens"])) + 1
    data["added_tokens"].append({"id": number, "content": "<extra>", **plain, "special": True})
    (folder / "of_5").mkdir()
    (folder / "of_5" / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    (folder / "of_5" / "tokenizer_config.json").write_text(json.dumps(OF_5), "utf-8")
    (folder / "of_5" / "chat_template.jinja").write_text("{{ messages[0].content }}", "utf-8")


@pytest.fixture(scope="module", params=PYTHONS, ids=lambda python: "other" if python != sys.executable else "own")
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("generations")
    write_tokenizers(folder)
    for name, (config, options) in EXPORTS.items():
        tokenizer = options.get("tokenizer_folder")
        options = {
            "dtype": torch.float32,
            "card": None,
            **options,
            "tokenizer_folder": tokenizer and folder / tokenizer,
        }
        export(folder / "exports" / name, config, decoder_of(config).state_dict(), **options)
    ids = torch.randint(1, 300, (3, 60), generator=torch.Generator().manual_seed(3))
    (folder / "ids.json").write_text(json.dumps(ids.tolist()))
    script = Path(__file__).with_name("load_exports.py")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run([request.param, script, folder], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "incorrect regex" not in done.stderr
    found = json.loads((folder / "found.json").read_text("utf-8"))
    if request.param != sys.executable:
        assert found["transformers"].startswith("4."), found["transformers"]
    return Loaded(folder, ids, load_file(folder / "logits.safetensors"), found)


@pytest.mark.parametrize("name", EXPORTS)
def test_an_export_is_the_same_model_and_so_is_what_is_saved_again(loaded: Loaded, name: str) -> None:
    config, options = EXPORTS[name]
    dtype = options.get("dtype", torch.float32)
    ours = decoder_of(config).to(dtype).float()
    with torch.no_grad():
        expected = ours.logits(loaded.ids)
        torch.testing.assert_close(loaded.logits[name], expected, atol=2e-4, rtol=0)
        again = load(loaded.folder / "saved" / name, torch.float32)
        torch.testing.assert_close(again.logits(loaded.ids), expected, atol=2e-4, rtol=0)
        plain = replace(config, rope_theta=10000.0, rope_scaling="none", rope_factor=1.0, **dict.fromkeys(LLAMA3))
        if plain != config:  # else agreement says nothing
            other = Decoder(plain).eval()
            other.load_state_dict(ours.state_dict())
            assert (other.logits(loaded.ids) - expected).abs().max() > 0.1
    assert loaded.found[name]["dtype"] == str(dtype)
    assert loaded.found[name]["class"] == "LlamaForCausalLM"
    if config.end_of_text is not None:
        assert loaded.found[name]["ends"] == [config.end_of_text, config.end_of_text]


@pytest.mark.parametrize("name", ["tokenizer", "tokenizer_of_5"])
def test_an_export_has_the_same_tokenizer(loaded: Loaded, name: str) -> None:
    found, exported = loaded.found[name], loaded.folder / "exports" / name
    ours = TextTokenizer.open(exported)
    assert found["decoded"] == "Tomorrow , we'll see: naïve words.<|endoftext|> <extra>"
    assert found["encoded"].count(ours.end_of_text) == 1
    assert found["special"] == ["<extra>", "<|endoftext|>"][name == "tokenizer" :]
    assert found["template"] == (None if name == "tokenizer" else "{{ messages[0].content }}")
    saved = TextTokenizer.open(loaded.folder / "saved" / name)
    text = "Tomorrow , we'll see: naïve words."
    assert saved.encode([text])[0].tolist() == ours.encode([text])[0].tolist()
    assert (saved.end_of_text, saved.vocab_size) == (ours.end_of_text, ours.vocab_size)


@pytest.mark.parametrize("name", EXPORTS)
def test_config_json_has_the_fields_of_both_versions(tmp_path: Path, name: str) -> None:
    """Read as each version does; the fields are those of LlamaConfig in transformers 4.57 and 5."""
    config, options = EXPORTS[name]
    dtype = options.get("dtype", torch.float32)
    export(tmp_path / "hf", config, decoder_of(config).state_dict(), dtype=dtype, tokenizer_folder=None, card=None)
    raw = json.loads((tmp_path / "hf" / "config.json").read_text())
    new, old = raw["rope_parameters"], raw["rope_scaling"]
    assert raw["dtype"] == raw["torch_dtype"] == str(dtype).removeprefix("torch.")
    assert raw["rope_theta"] == new["rope_theta"]
    if config.rope_scaling in ("none", "ntk"):
        assert (old, new["rope_type"]) == (None, "default")
        assert (raw["rope_theta"] > config.rope_theta) == (config.rope_scaling == "ntk")
    else:
        assert raw["rope_theta"] == config.rope_theta
        assert old["rope_type"] == new["rope_type"] == config.rope_scaling
        assert {key: value for key, value in old.items() if key != "type"} | {"rope_theta": raw["rope_theta"]} == new
    assert raw["transformers_version"].startswith("5.")
    assert list(raw) == sorted(raw)


def rewritten(folder: Path, drop: tuple[str, ...] = (), **change: Any) -> Path:
    export(folder, CONFIG, decoder_of(CONFIG).state_dict(), dtype=torch.float32, tokenizer_folder=None, card=None)
    path = folder / "config.json"
    raw = {key: value for key, value in json.loads(path.read_text()).items() if key not in drop}
    path.write_text(json.dumps(raw | change))
    return folder


SCALED = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
SCALED |= {"original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    "change",
    [
        {"rope_theta": 10000.0},  # what transformers 4 saves after it ignored rope_parameters
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_parameters": SCALED | {"rope_theta": 500000.0}},
        {"rope_parameters": SCALED | {"rope_theta": 500000.0}, "rope_scaling": SCALED | {"factor": 4.0}},
    ],
)
def test_fields_that_disagree_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = rewritten(tmp_path / "hf", **change)
    with pytest.raises(ValueError, match="transformers 4 and 5 would compute different models") as caught:
        load(folder, torch.float32)
    assert str(folder / "config.json") in str(caught.value)
    with pytest.raises(ValueError, match="would compute different models"):
        check_scorer(folder, 0, 32)
    other = {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    with pytest.raises(ValueError, match="would compute different models"):
        check_scorer(rewritten(tmp_path / "qwen2", **change, **other), 0, 32)


@pytest.mark.parametrize(
    ("drop", "change", "theta"),
    [
        (("rope_theta", "rope_scaling", "torch_dtype"), {}, 500000.0),  # transformers 5
        (("rope_parameters", "dtype", "transformers_version"), {}, 500000.0),  # transformers 4
        (("rope_parameters", "rope_theta", "rope_scaling"), {}, 10000.0),
        (("rope_scaling",), {"rope_theta": 7e5, "rope_parameters": {"rope_type": "default"}}, 7e5),
        ((), {"rope_scaling": {"rope_type": "linear", "factor": 1.0}}, 500000.0),
    ],
)
def test_the_fields_of_one_version_are_enough(
    tmp_path: Path, drop: tuple[str, ...], change: dict[str, Any], theta: float
) -> None:
    config = load(rewritten(tmp_path / "hf", drop, **change), torch.float32).config
    assert (config.rope_theta, config.rope_scaling) == (theta, "none")


@pytest.mark.parametrize(
    "rope",
    [
        {"full_attention": {"rope_type": "default", "rope_theta": 1e6}, "sliding_attention": {"rope_type": "default"}},
        {"rope_type": "default", "rope_theta": 500000.0, "mrope_section": [2, 2, 2]},
    ],
)
def test_parameters_that_the_decoder_does_not_know_are_refused(tmp_path: Path, rope: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="only full-head RoPE"):
        load(rewritten(tmp_path / "hf", ("rope_theta", "rope_scaling"), rope_parameters=rope), torch.float32)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"tokenizer_class": "TokenizersBackend"}, {"tokenizer_class": "PreTrainedTokenizerFast"}),
        ({"tokenizer_class": "GPT2Tokenizer"}, {"tokenizer_class": "GPT2Tokenizer"}),
        ({"extra_special_tokens": ["<a>", "<b>"]}, {"additional_special_tokens": ["<a>", "<b>"]}),
        (
            {"extra_special_tokens": ["<a>"], "additional_special_tokens": ["<b>", "<a>"]},
            {"additional_special_tokens": ["<b>", "<a>"]},
        ),
        ({"extra_special_tokens": []}, {}),
        ({"extra_special_tokens": None}, {}),
        ({"extra_special_tokens": {"image_token": "<i>"}}, {"extra_special_tokens": {"image_token": "<i>"}}),
        ({"model_specific_special_tokens": {"image_token": "<i>"}}, {"extra_special_tokens": {"image_token": "<i>"}}),
        ({"clean_up_tokenization_spaces": True}, {"clean_up_tokenization_spaces": True}),
        ({"chat_template": "a"}, {"chat_template": "a"}),
    ],
)
def test_tokenizer_config_has_names_that_both_versions_read(given: dict[str, Any], expected: dict[str, Any]) -> None:
    assert readable_config(given) == {"clean_up_tokenization_spaces": False} | expected
    assert readable_config(readable_config(given)) == readable_config(given)
