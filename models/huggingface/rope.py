"""RoPE settings in config.json: `rope_parameters` of transformers 5; `rope_theta` and `rope_scaling` of version 4.

transformers 4, and what is built on it (vLLM, llama.cpp's converter), silently ignores `rope_parameters` and takes a
base of 10000 without scaling, so both are written, and a file in which they differ is rejected.
"""

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

DEFAULT_THETA = 10000.0
"""What transformers takes for a Llama whose config.json has no base."""

KNOWN = {"rope_type", "type", "rope_theta", "factor", "partial_rotary_factor", *LLAMA3.values()}
"""Keys whose meaning `read_rope` knows."""


def read_rope(path: Path, raw: Mapping[str, Any]) -> dict[str, Any]:
    """Return the RoPE fields of DecoderConfig from the config.json at `path`.

    Raises UnlikeDecoderError for a scaling that the decoder does not support (dynamic, yarn, longrope), ValueError for
    one with missing numbers and for fields of transformers 4 and 5 that differ (`check_generations`).
    """
    given = raw.get("rope_parameters") or raw.get("rope_scaling") or {}
    kind = _kind(given)
    unknown = sorted(key for key in given if key not in KNOWN and given[key] is not None)
    partial = given.get("partial_rotary_factor") or raw.get("partial_rotary_factor") or 1.0
    if kind not in ("default", "linear", "llama3") or partial != 1.0 or unknown:
        raise UnlikeDecoderError(
            f"{path}: rotary positions {given} are not supported by the decoder, only full-head RoPE with default, "
            "linear or llama3 scaling: use another model, or use this one only for scoring"
        )
    theta = next((value for value in (given.get("rope_theta"), raw.get("rope_theta")) if value is not None), None)
    found: dict[str, Any] = {"rope_theta": float(DEFAULT_THETA if theta is None else theta)}
    needed = {"rope_factor": "factor", **(LLAMA3 if kind == "llama3" else {})}
    missing = [theirs for theirs in needed.values() if not isinstance(given.get(theirs), int | float)]
    if missing and kind != "default":
        raise ValueError(f"{path}: {kind} scaling lacks {', '.join(missing)}: restore the model's own config.json")
    check_generations(path, raw, DEFAULT_THETA)
    if kind == "default" or given["factor"] == 1:  # no scaling
        return found
    found |= {ours: given[theirs] for ours, theirs in needed.items()}
    return found | {"rope_scaling": kind, "rope_factor": float(given["factor"])}


def check_generations(path: Path, raw: Mapping[str, Any], default_theta: float | None = None) -> None:
    """Raise ValueError if the RoPE fields of transformers 4 and 5 in the config.json at `path` describe two models.

    transformers 4 leaves such a file when it saves a model that version 5 wrote: it keeps `rope_parameters`, which it
    does not know, and adds the defaults that it computed with. `default_theta` is the architecture's base; without it
    only bases that the file names are compared. Parameters by layer type are not compared.
    """
    new, old = raw.get("rope_parameters"), raw.get("rope_scaling") or {}
    if not isinstance(new, Mapping) or not new or any(isinstance(value, Mapping) for value in new.values()):
        return
    if not old and raw.get("rope_theta") is None:  # written by transformers 5
        return
    bases = [new.get("rope_theta", raw.get("rope_theta")), raw.get("rope_theta", old.get("rope_theta"))]
    new_theta, old_theta = (default_theta if base is None else base for base in bases)
    same_theta = new_theta is None or old_theta is None or float(new_theta) == float(old_theta)
    numbers = [(new.get(key), old.get(key)) for key in ("factor", *LLAMA3.values())]
    same_numbers = all(one == other for one, other in numbers if one is not None and other is not None)
    if same_theta and same_numbers and _kind(new) == _kind(old):
        return
    raise ValueError(
        f"{path}: rope_parameters={dict(new)} differs from rope_theta={raw.get('rope_theta')}, "
        f"rope_scaling={raw.get('rope_scaling')}: transformers 4 and 5 would compute different models; keep the values "
        "that the model was trained with"
    )


def _kind(given: Mapping[str, Any]) -> str:
    """Return the name of a scaling: "default" for none."""
    kind = str(given.get("rope_type") or given.get("type") or "default")
    unscaled = kind == "linear" and given.get("factor") == 1
    return "default" if unscaled else {"su": "longrope"}.get(kind, kind)  # the name in early Phi-3 models


def write_rope(config: DecoderConfig) -> dict[str, Any]:
    """Return the RoPE fields of config.json, as transformers 5 and as version 4 reads them.

    transformers has no name for static NTK scaling: it equals plain RoPE with a larger base and is written as such.
    """
    theta = config.rope_theta
    if config.rope_scaling == "ntk":
        theta *= config.rope_factor ** (config.head_size / (config.head_size - 2))
    if config.rope_scaling in ("none", "ntk"):
        both: dict[str, Any] = {"rope_parameters": {"rope_theta": theta, "rope_type": "default"}, "rope_scaling": None}
        return both | {"rope_theta": theta}
    scaling: dict[str, Any] = {"factor": config.rope_factor, "rope_type": config.rope_scaling}
    if config.rope_scaling == "llama3":
        scaling |= {theirs: getattr(config, ours) for ours, theirs in LLAMA3.items()}
        older = scaling
    else:
        older = scaling | {"type": config.rope_scaling}  # before transformers 4.43, and in older converters to GGUF
    return {"rope_parameters": {"rope_theta": theta} | scaling, "rope_scaling": older, "rope_theta": theta}
