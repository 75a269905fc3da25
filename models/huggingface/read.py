"""Load a Llama-type Hugging Face folder as a decoder; anything the decoder would compute differently is rejected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.config import DecoderConfig
from models.decoder import Decoder
from models.huggingface.folder import UnlikeDecoderError, check_layers, read_json, stored_tensors, weight_files
from models.huggingface.names import ARCHITECTURE, compare_names, compare_shape, tensor_names
from models.huggingface.rope import read_rope


def load(folder: Path, dtype: torch.dtype, *, end_of_text: int | None = None, input_only: int | None = None) -> Decoder:
    """Return the decoder stored in a Llama-type folder (safetensors), its weights as `dtype` on the CPU.

    `end_of_text` is the token that starts a document. None takes it from config.json if bos and eos are the same token
    (as in our exports); otherwise attention covers the whole sequence, as in Llama itself. `input_only` is a token that
    is never a label. Raises ValueError, with the
    file, the value and a fix, for another architecture, pickled or quantised weights, biases, RoPE scaling other than
    linear or llama3, or tensors that are missing, unexpected or of the wrong shape.
    """
    folder = Path(folder)
    config = replace(read_config(folder, end_of_text), input_only=input_only)
    state = read_weights(folder, config, dtype)
    with torch.device("meta"):
        decoder = Decoder(config)
    if config.tie_embeddings:
        state["head.weight"] = state["embedding.weight"]
    decoder.load_state_dict(state, strict=True, assign=True)
    if config.tie_embeddings:
        decoder.head.weight = decoder.embedding.weight
    return decoder


def read_config(folder: Path, end_of_text: int | None) -> DecoderConfig:
    """Return the config from config.json. Raises UnlikeDecoderError for another architecture, otherwise as `load`."""
    path = folder / "config.json"
    raw = read_json(path, "name a folder written by save_pretrained or by pdpc export")
    _check_supported(path, raw)
    try:
        return DecoderConfig(**_shape(path, raw, end_of_text))
    except (ValueError, TypeError, AttributeError, OverflowError) as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"{path}: {error}: restore the model's own config.json, or use another model") from error


def _shape(path: Path, raw: Mapping[str, Any], end_of_text: int | None) -> dict[str, Any]:
    """Return the fields of the DecoderConfig."""
    heads, width = _number(path, raw, "num_attention_heads"), _number(path, raw, "hidden_size")
    head_size = _number(path, raw, "head_dim") if raw.get("head_dim") is not None else width // max(1, heads)
    return {
        "vocab_size": _number(path, raw, "vocab_size"),
        "layers": _number(path, raw, "num_hidden_layers"),
        "width": width,
        "heads": heads,
        "kv_heads": raw.get("num_key_value_heads") or heads,
        "ffn": _number(path, raw, "intermediate_size"),
        "max_seq_len": raw.get("max_position_embeddings", 2048),
        **read_rope(path, raw),
        "norm_eps": float(raw.get("rms_norm_eps", 1e-6)),
        "tie_embeddings": bool(raw.get("tie_word_embeddings", False)),
        "end_of_text": end_of_text if end_of_text is not None else _shared_end(raw),
        "explicit_head_size": None if head_size * heads == width else head_size,
    }


def _check_supported(path: Path, raw: Mapping[str, Any]) -> None:
    """Raise for anything the decoder computes differently, which would silently give wrong numbers."""
    if raw.get("quantization_config"):
        raise ValueError(f"{path}: quantised weights are not supported: save the model in float32 or bfloat16")
    architectures = raw.get("architectures") or [ARCHITECTURE]
    if raw.get("model_type") != "llama" or architectures != [ARCHITECTURE]:
        raise UnlikeDecoderError(
            f"{path}: model_type={raw.get('model_type')!r}, architectures={architectures}: only {ARCHITECTURE} "
            "can be loaded as a decoder; pdpc score also takes other models"
        )
    for key, plain in {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"}.items():
        if raw.get(key, plain) != plain:
            raise UnlikeDecoderError(
                f"{path}: {key}={raw[key]!r} is not supported by the decoder, only {plain!r}: use another model, or "
                "use this one only for scoring"
            )


def _shared_end(raw: Mapping[str, Any]) -> int | None:
    """Return the token that is both bos and eos; None if they differ, or if it is outside the vocabulary."""
    start, end, size = raw.get("bos_token_id"), raw.get("eos_token_id"), raw.get("vocab_size")
    inside = isinstance(start, int) and isinstance(size, int) and 0 <= start < size
    return start if inside and start == end else None


def _number(path: Path, raw: Mapping[str, Any], key: str) -> int:
    value = raw.get(key)
    if not isinstance(value, int):
        raise ValueError(f"{path}: {key}={value!r} is not an integer: restore the model's own config.json")
    return value


def check_weights(folder: Path, config: DecoderConfig) -> None:
    """Raise ValueError unless a folder has exactly the tensors of `config`, by name and shape; reads headers only."""
    with _opened(folder, config):
        pass


def read_weights(folder: Path, config: DecoderConfig, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the tensors of a folder by the decoder's names. Raises ValueError as `check_weights` does."""
    with _opened(folder, config) as tensors:
        return {name: file.get_tensor(theirs).to(dtype) for name, (file, theirs) in tensors.items()}


@contextmanager
def _opened(folder: Path, config: DecoderConfig) -> Iterator[dict[str, tuple[Any, str]]]:
    """Yield the open file and the stored name of each of the decoder's tensors, with names and shapes checked."""
    from safetensors import SafetensorError, safe_open

    tensors, stored = stored_tensors(folder)
    check_layers(folder / "config.json", config.layers, tensors)
    if config.parameter_count() > stored:  # before building modules: a layer takes a millisecond
        raise ValueError(
            f"{folder / 'config.json'} describes {config.parameter_count():,} parameters, but the weights in the "
            f"folder have only {stored:,} bytes: download the folder again"
        )
    names = tensor_names(config)
    fix = "the folder is incomplete or its config.json belongs to other weights; download it again"
    with ExitStack() as stack:
        holder = {}
        for path in weight_files(folder):
            try:
                opened = stack.enter_context(safe_open(path, framework="pt"))
            except SafetensorError as error:
                raise ValueError(f"{path} is not a valid safetensors file ({error}): download it again") from error
            holder.update(dict.fromkeys(opened.keys(), opened))
        # Old checkpoints store the RoPE table, which rope_theta determines.
        given = {name for name in holder if not name.endswith("rotary_emb.inv_freq")}
        if config.tie_embeddings and "lm_head.weight" in given:
            tied = ("lm_head.weight", names["embedding.weight"][0])
            if set(tied) <= given and not torch.equal(*(holder[name].get_tensor(name) for name in tied)):
                raise ValueError(
                    f"{folder}: lm_head.weight differs from the embedding: set tie_word_embeddings to false"
                )
            given.remove("lm_head.weight")
        compare_names(given, (theirs for theirs, _ in names.values()), str(folder), fix)
        for theirs, shape in names.values():
            compare_shape(theirs, tuple(holder[theirs].get_slice(theirs).get_shape()), shape, str(folder))
        yield {ours: (holder[theirs], theirs) for ours, (theirs, _) in names.items()}
