"""Rotary positions in config.json: `rope_parameters`, as transformers 5 calls them, and the older `rope_scaling`."""

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
"""Our names of what belongs to llama3 scaling alone, and theirs."""


def read_rope(path: Path, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the DecoderConfig fields on rotary positions from the config.json at `path`.

    UnlikeDecoderError for a scaling that this decoder does not know (dynamic, yarn, longrope), ValueError for one whose
    numbers are missing.
    """
    given = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = given.get("rope_type", given.get("type", "default"))
    if kind not in ("default", "linear", "llama3") or given.get("partial_rotary_factor", 1.0) != 1.0:
        raise UnlikeDecoderError(
            f"{path}: rotary positions {given} are not supported by the decoder, only the whole head with default, "
            "linear or llama3 scaling: use another model, or score with it alone"
        )
    found: dict[str, Any] = {"rope_theta": float(given.get("rope_theta") or raw.get("rope_theta") or 10000.0)}
    if kind == "default":
        return found
    needed = {"rope_factor": "factor", **(LLAMA3 if kind == "llama3" else {})}
    missing = [theirs for theirs in needed.values() if not isinstance(given.get(theirs), int | float)]
    if missing:
        raise ValueError(f"{path}: {kind} scaling lacks {', '.join(missing)}: restore the model's own config.json")
    if given["factor"] == 1:  # stretched by nothing
        return found
    found |= {ours: given[theirs] for ours, theirs in needed.items()}
    return found | {"rope_scaling": kind, "rope_factor": float(given["factor"])}


def write_rope(config: DecoderConfig) -> dict[str, Any]:
    """Return `rope_parameters` of a decoder.

    Static NTK scaling has no name there: it is plain rotary positions with a larger base, and is written as that.
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
