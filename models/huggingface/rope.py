"""RoPE settings in config.json: `rope_parameters` of transformers 5, and the older `rope_scaling`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from models.config import DecoderConfig
from models.huggingface.folder import UnlikeDecoderError

LLAMA3 = {
    "rope_original_seq_len": "original_max_position_embeddings",
    "rope_low_factor": "low_freq_factor",
    "rope_high_factor": "high_freq_factor",
}
"""Settings specific to llama3 scaling: our names and Hugging Face's."""


def read_rope(path: Path, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the RoPE fields of DecoderConfig from the config.json at `path`.

    Raises UnlikeDecoderError for a scaling that the decoder does not support (dynamic, yarn, longrope), ValueError for
    one with missing numbers.
    """
    given = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = given.get("rope_type", given.get("type", "default"))
    if kind not in ("default", "linear", "llama3") or given.get("partial_rotary_factor", 1.0) != 1.0:
        raise UnlikeDecoderError(
            f"{path}: rotary positions {given} are not supported by the decoder, only full-head RoPE with default, "
            "linear or llama3 scaling: use another model, or use this one only for scoring"
        )
    found: dict[str, Any] = {"rope_theta": float(given.get("rope_theta") or raw.get("rope_theta") or 10000.0)}
    if kind == "default":
        return found
    needed = {"rope_factor": "factor", **(LLAMA3 if kind == "llama3" else {})}
    missing = [theirs for theirs in needed.values() if not isinstance(given.get(theirs), int | float)]
    if missing:
        raise ValueError(f"{path}: {kind} scaling lacks {', '.join(missing)}: restore the model's own config.json")
    if given["factor"] == 1:  # no scaling
        return found
    found |= {ours: given[theirs] for ours, theirs in needed.items()}
    return found | {"rope_scaling": kind, "rope_factor": float(given["factor"])}


def write_rope(config: DecoderConfig) -> dict[str, Any]:
    """Return the `rope_parameters` of a decoder.

    transformers has no name for static NTK scaling: it equals plain RoPE with a larger base and is written as such.
    """
    if config.rope_scaling == "none":
        return {"rope_theta": config.rope_theta, "rope_type": "default"}
    if config.rope_scaling == "ntk":
        size = config.head_size
        return {"rope_theta": config.rope_theta * config.rope_factor ** (size / (size - 2)), "rope_type": "default"}
    shared = {"rope_theta": config.rope_theta, "rope_type": config.rope_scaling, "factor": config.rope_factor}
    if config.rope_scaling != "llama3":
        return shared
    return shared | {theirs: getattr(config, ours) for ours, theirs in LLAMA3.items()}
