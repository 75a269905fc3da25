"""Export a decoder as a Hugging Face folder: a plain LlamaForCausalLM that loads without this package.

`load` in read.py is the inverse; names.py has the table of names that both use.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.config import DecoderConfig
from models.huggingface.card import model_card
from models.huggingface.names import ARCHITECTURE, INDEX, WEIGHTS, compare_names, compare_shape, tensor_names
from models.huggingface.rope import write_rope
from models.huggingface.tokenizer import copy_tokenizer, tokenizer_files

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Weight dtypes of an export, by their names in configs and config.json."""

MAX_SHARD_BYTES = 5_000_000_000
"""Largest model file; larger models are sharded, as by `save_pretrained`."""

FORMAT = "5.0.0"
"""The version of transformers whose format an export has; version 4 reads it too. Without a version, transformers 4.57
warns of a wrong regular expression in every tokenizer of more than 100,000 tokens."""


def export(
    folder: Path,
    config: DecoderConfig,
    state: Mapping[str, Tensor],
    *,
    dtype: torch.dtype,
    tokenizer_folder: Path | None,
    card: str | None,
    bos: int | None = None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a folder that `AutoModelForCausalLM.from_pretrained` loads without this package.

    `state` maps names to a Decoder's tensors (any dtype and device); they are stored as `dtype`. `card` is the text of
    README.md (None: a short one is written), `bos` the token that starts a text (None: `config.end_of_text`). Raises
    ValueError, before writing anything, if `folder` is not empty, if a tensor is missing, unexpected or of the wrong
    shape, or if `tokenizer_folder` has no tokenizer. A failed write leaves a partial folder (train/export/export.py
    makes exports atomic).
    """
    if dtype not in DTYPES.values():
        raise ValueError(f"export dtype {dtype} cannot be written: choose one of {', '.join(DTYPES)}")
    weights = _checked_state(config, state)
    copied = tokenizer_files(tokenizer_folder) if tokenizer_folder is not None else []
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder: name a new one")
    folder.mkdir(parents=True, exist_ok=True)
    _write_weights(folder, weights, dtype, max_shard_bytes)
    (folder / "config.json").write_text(config_text(config, dtype, bos), encoding="utf-8")
    if config.end_of_text is not None:
        start = config.end_of_text if bos is None else bos
        ids = {"bos_token_id": start, "eos_token_id": config.end_of_text}
        ids |= {"pad_token_id": config.end_of_text}
        (folder / "generation_config.json").write_text(_json({**ids, "transformers_version": FORMAT}), "utf-8")
    copy_tokenizer(copied, folder)
    text = card if card is not None else model_card(config, _dtype_name(dtype))
    (folder / "README.md").write_text(text, encoding="utf-8")


def _checked_state(config: DecoderConfig, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors by their Hugging Face names, after checking names and shapes."""
    names = tensor_names(config)
    given = dict(state)
    if config.tie_embeddings and "head.weight" in given and "embedding.weight" in given:
        # A tied module lists one matrix under both names; if they differed, the head would be lost.
        head = given.pop("head.weight")
        if not torch.equal(head, given["embedding.weight"]):
            raise ValueError("head.weight differs from embedding.weight: set model.tie_embeddings to false")
    compare_names(given, names, "the state given to export", "pass the state of a Decoder of the same config")
    for ours, (_, shape) in names.items():
        compare_shape(ours, tuple(given[ours].shape), shape, "the state given to export")
    return {theirs: given[ours] for ours, (theirs, _) in names.items()}


def config_text(config: DecoderConfig, dtype: torch.dtype, bos: int | None = None) -> str:
    """Return config.json for both transformers 5 (`dtype`, `rope_parameters`) and 4 (`torch_dtype`, `rope_theta`)."""
    fields = {
        "architectures": [ARCHITECTURE],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": config.end_of_text if bos is None else bos,
        "dtype": _dtype_name(dtype),
        "eos_token_id": config.end_of_text,
        "head_dim": config.head_size,
        "hidden_act": "silu",
        "hidden_size": config.width,
        "initializer_range": 0.02,
        "intermediate_size": config.ffn,
        "max_position_embeddings": config.max_seq_len,
        "mlp_bias": False,
        "model_type": "llama",
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads,
        "pad_token_id": None,
        "rms_norm_eps": config.norm_eps,
        **write_rope(config),
        "tie_word_embeddings": config.tie_embeddings,
        "torch_dtype": _dtype_name(dtype),
        "transformers_version": FORMAT,
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }
    return _json(fields)


def _write_weights(folder: Path, weights: Mapping[str, Tensor], dtype: torch.dtype, max_shard_bytes: int) -> None:
    from safetensors.torch import save_file

    def stored(names: list[str]) -> dict[str, Tensor]:
        # Copy each tensor: safetensors rejects tensors that share memory, such as slices of a flat buffer.
        return {name: weights[name].detach().to("cpu", dtype, copy=True).contiguous() for name in names}

    shards = _shards({name: tensor.numel() * dtype.itemsize for name, tensor in weights.items()}, max_shard_bytes)
    if len(shards) == 1:
        save_file(stored(shards[0]), folder / WEIGHTS, metadata={"format": "pt"})
        return
    weight_map = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(stored(names), folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(names, file))
    elements = sum(tensor.numel() for tensor in weights.values())
    facts = {"total_parameters": elements, "total_size": elements * dtype.itemsize}
    index = {"metadata": facts, "weight_map": dict(sorted(weight_map.items()))}
    (folder / INDEX).write_text(_json(index), encoding="utf-8")


def _shards(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Split names into shards of at most `limit` bytes; a larger tensor gets its own shard."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def _json(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
