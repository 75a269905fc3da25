"""Export a decoder as a Hugging Face folder: a plain LlamaForCausalLM that loads without this package.

`load` in read.py is the inverse; names.py has the table of names that both use.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.config import DecoderConfig
from models.huggingface.card import model_card
from models.huggingface.names import ARCHITECTURE, INDEX, WEIGHTS, compare_names, compare_shape, tensor_names
from models.huggingface.rope import write_rope

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""Weight dtypes of an export, by their names in configs and config.json."""

MAX_SHARD_BYTES = 5_000_000_000
"""Largest model file; larger models are sharded, as by `save_pretrained`."""

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "vocab.json", "merges.txt", "vocab.txt", "tokenizer.model",
)  # fmt: skip
"""Files copied from a tokenizer's folder; anything else there (weights, code) is not."""


def export(
    folder: Path,
    config: DecoderConfig,
    state: Mapping[str, Tensor],
    *,
    dtype: torch.dtype,
    tokenizer_folder: Path | None,
    card: str | None,
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write a folder that `AutoModelForCausalLM.from_pretrained` loads without this package.

    `state` maps names to a Decoder's tensors (any dtype and device); they are stored as `dtype`. The export is written
    to a temporary sibling and renamed to `folder`, so it is complete or absent; an earlier export in `folder` is
    replaced. `card` is the text of README.md (None: a short one is written). Raises ValueError if a tensor is missing,
    unexpected or of the wrong shape, if `folder` contains something else, or if `tokenizer_folder` has no tokenizer.
    Temporary siblings left by a killed export to `folder` are removed, so two exports to one folder must not run at the
    same time.
    """
    if dtype not in DTYPES.values():
        raise ValueError(f"export dtype {dtype} cannot be written: choose one of {', '.join(DTYPES)}")
    weights = _checked_state(config, state)
    folder = folder.absolute()
    _check_replaceable(folder)
    _remove_left_over(folder, "partial")
    draft = folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")
    draft.mkdir(parents=True)
    try:
        _write_weights(draft, weights, dtype, max_shard_bytes)
        _write_json(draft / "config.json", _llama_config(config, dtype))
        if config.end_of_text is not None:
            ids = {"bos_token_id": config.end_of_text, "eos_token_id": config.end_of_text}
            _write_json(draft / "generation_config.json", ids | {"pad_token_id": config.end_of_text})
        if tokenizer_folder is not None:
            _copy_tokenizer(tokenizer_folder, draft)
        text = card if card is not None else model_card(config, _dtype_name(dtype))
        (draft / "README.md").write_text(text, encoding="utf-8")
        for path in draft.iterdir():
            _sync(path)
        _replace(draft, folder)
        _remove_left_over(folder, "old")  # not earlier: it may be the only complete export
    finally:
        shutil.rmtree(draft, ignore_errors=True)


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


def _llama_config(config: DecoderConfig, dtype: torch.dtype) -> dict[str, Any]:
    """Return config.json as transformers 5 writes it (`dtype`, `rope_parameters`)."""
    return {
        "architectures": [ARCHITECTURE],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": config.end_of_text,
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
        "rope_parameters": write_rope(config),
        "tie_word_embeddings": config.tie_embeddings,
        "use_cache": True,
        "vocab_size": config.vocab_size,
    }


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
    _write_json(folder / INDEX, {"metadata": facts, "weight_map": dict(sorted(weight_map.items()))})


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


def _copy_tokenizer(source: Path, folder: Path) -> None:
    present = [name for name in TOKENIZER_FILES if (source / name).is_file()]
    if "tokenizer.json" not in present and "tokenizer.model" not in present:
        raise ValueError(f"{source} contains no tokenizer.json or tokenizer.model: name a saved tokenizer's folder")
    for name in present:
        shutil.copyfile(source / name, folder / name)


def _check_replaceable(folder: Path) -> None:
    """Raise ValueError unless `folder` is absent, empty or an earlier export."""
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not ((folder / "config.json").is_file() and ((folder / WEIGHTS).is_file() or (folder / INDEX).is_file())):
        raise ValueError(f"{folder} exists and is not an exported model: name a new folder or remove it")


def _replace(draft: Path, folder: Path) -> None:
    """Move `draft` to `folder`; an existing folder is moved aside first and removed last."""
    aside = draft.with_suffix(".old")
    if folder.exists():
        os.replace(folder, aside)
    try:
        os.replace(draft, folder)
    except OSError:
        if aside.exists():
            os.replace(aside, folder)
        raise
    _sync(folder.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _remove_left_over(folder: Path, suffix: str) -> None:
    """Remove the siblings `.<name>.<8 hex digits>.<suffix>` left by a killed export to `folder`."""
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{8}}\.{suffix}")
    if not folder.parent.is_dir():
        return
    for path in folder.parent.iterdir():
        if pattern.fullmatch(path.name):
            shutil.rmtree(path, ignore_errors=True)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _sync(path: Path) -> None:
    """fsync a file or a folder's entries."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
