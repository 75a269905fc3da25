"""Checks of a foreign model's config before any weight is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from models.huggingface.folder import check_layers, check_size, read_json, stored_tensors
from models.huggingface.rope import check_generations

ATTENTION = (None, "eager", "sdpa")
"""Values of attn_implementation in config.json that need no external code."""

LAYERS = ("num_hidden_layers", "num_layers", "n_layer", "n_layers")
"""Names of the number of layers; an architecture may have another one, which it maps to the first."""
MOST_LISTED = 10_000
"""Most labels of a classifier, or experts: transformers may create one object for each."""
TEXTS = (".json", ".jinja", ".txt", ".model")
"""Suffixes of files that transformers reads as a whole."""


def check_foreign(folder: Path, seq_len: int | None) -> None:
    """Raise ValueError, with folder, value and fix, unless transformers can score samples of `seq_len` tokens.

    Rejected: custom modeling code, weights that are pickled, quantised or an adapter's, architectures that do not
    predict the next token, rotary positions that transformers 4 and 5 read differently, positions that end before a
    sample does, more layers than tensors. Of the weight files only the headers are read; nothing is downloaded.
    """
    path = folder / "config.json"
    raw = read_json(path, "name a folder written by save_pretrained or by pdpc export")
    for part in _parts(raw):
        if part.get("auto_map"):
            raise ValueError(
                f"{path}: auto_map={part['auto_map']} needs custom modeling code, which is never run: use another "
                "model, or remove auto_map if transformers itself supports the architecture"
            )
        for key in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"):
            if part.get(key) not in ATTENTION:
                raise ValueError(f"{path}: {key}={part[key]!r} needs external attention code: remove the key")
        if part.get("quantization_config"):
            raise ValueError(f"{path}: quantised weights are not supported: save the model in float32 or bfloat16")
    if (folder / "adapter_config.json").is_file():
        raise ValueError(
            f"{folder} contains an adapter (adapter_config.json), not a full model: merge it into its base model first"
        )
    _check_architecture(path, raw)
    check_generations(path, raw)
    _check_counts(folder, raw)
    check_positions(path, position_limit(folder), seq_len)


def _parts(value: Any) -> Iterator[dict[str, Any]]:
    """Yield a configuration and those inside it, such as text_config."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _parts(inner)


def _check_counts(folder: Path, raw: dict[str, Any]) -> None:
    """Raise ValueError for counts in config.json, and files, that no model has: transformers would take the memory."""
    from transformers import CONFIG_MAPPING

    for file in folder.iterdir():
        if file.suffix in TEXTS and file.is_file():
            check_size(file, "download the folder again")
    path = folder / "config.json"
    tensors, _ = stored_tensors(folder)
    theirs = CONFIG_MAPPING[raw["model_type"]].attribute_map.get("num_hidden_layers")
    for part in (raw, *(value for value in raw.values() if isinstance(value, dict))):
        for key in {*LAYERS, theirs}:
            check_layers(path, part.get(key), tensors)
        for key, value in part.items():
            if (key == "num_labels" or "experts" in key) and isinstance(value, int) and value > MOST_LISTED:
                raise ValueError(f"{path}: {key}={value:,} is more than {MOST_LISTED:,}: restore the file")


def check_positions(path: Path, limit: int | None, seq_len: int | None) -> None:
    """Raise ValueError if a model's positions end at `limit` tokens, before a sample of `seq_len` does."""
    if limit is not None and seq_len is not None and seq_len > limit:
        raise ValueError(
            f"{path}: the model's positions end at {limit} tokens (max_position_embeddings), but samples have "
            f"seq_len={seq_len}: prepare the text with seq_len={limit} or less, or use another model"
        )


def _check_architecture(path: Path, raw: dict[str, Any]) -> None:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    kind = raw.get("model_type")
    known = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(kind)
    architectures = raw.get("architectures") or [known]
    if known is None or architectures != [known]:
        wanted = "transformers has none of this type" if known is None else f"the one of this type is {known}"
        raise ValueError(
            f"{path}: model_type={kind!r}, architectures={architectures} is not a causal language model ({wanted}): "
            "use a model that predicts the next token"
        )


def position_limit(folder: Path) -> int | None:
    """Return the longest sequence in tokens that a model's positions allow; None if config.json sets no limit.

    With longrope that is the length before scaling: beyond it, the longest row of a batch changes the rotation of all.
    """
    from transformers import AutoConfig

    try:
        whole = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # each architecture checks its config in its own way
        raise ValueError(
            f"{folder / 'config.json'}: transformers cannot read it ({error}): restore the file"
        ) from error
    config = whole.get_text_config(decoder=True)
    limit = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        limit = rope.get("original_max_position_embeddings", limit)
    return limit if isinstance(limit, int) and limit > 0 else None
