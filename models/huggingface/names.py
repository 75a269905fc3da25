"""Hugging Face Llama names of a Decoder's tensors, and the checks shared by export and import.

Both sides rotate queries and keys in the "rotate half" layout and store matrices as [out, in], so conversion renames
tensors and changes nothing else. `tensor_names` is the only table: `write.py` reads it forwards, `read.py` backwards.
"""

from __future__ import annotations

from collections.abc import Iterable

from models.config import DecoderConfig

ARCHITECTURE = "LlamaForCausalLM"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def tensor_names(config: DecoderConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return the Hugging Face name and the shape of each of a Decoder's tensors."""
    width, ffn = config.width, config.ffn
    query_width, kv_width = config.heads * config.head_size, config.kv_heads * config.head_size
    block = {
        "attention_norm": ("input_layernorm", (width,)),
        "attention.q": ("self_attn.q_proj", (query_width, width)),
        "attention.k": ("self_attn.k_proj", (kv_width, width)),
        "attention.v": ("self_attn.v_proj", (kv_width, width)),
        "attention.o": ("self_attn.o_proj", (width, query_width)),
        "ffn_norm": ("post_attention_layernorm", (width,)),
        "ffn.gate": ("mlp.gate_proj", (ffn, width)),
        "ffn.up": ("mlp.up_proj", (ffn, width)),
        "ffn.down": ("mlp.down_proj", (width, ffn)),
    }
    names: dict[str, tuple[str, tuple[int, ...]]] = {
        "embedding.weight": ("model.embed_tokens.weight", (config.vocab_size, width))
    }
    for layer in range(config.layers):
        for ours, (theirs, shape) in block.items():
            names[f"layers.{layer}.{ours}.weight"] = (f"model.layers.{layer}.{theirs}.weight", shape)
    names["norm.weight"] = ("model.norm.weight", (width,))
    if not config.tie_embeddings:
        names["head.weight"] = ("lm_head.weight", (config.vocab_size, width))
    return names


def compare_names(given: Iterable[str], wanted: Iterable[str], where: str, fix: str) -> None:
    """Raise a ValueError naming the tensors that are missing from or unexpected in `where`."""
    have, need = set(given), set(wanted)
    missing, unexpected = sorted(need - have), sorted(have - need)
    if missing or unexpected:
        raise ValueError(
            f"{where}: missing tensors {_abbreviated(missing)}, unexpected tensors {_abbreviated(unexpected)}: {fix}"
        )


def compare_shape(name: str, given: tuple[int, ...], wanted: tuple[int, ...], where: str) -> None:
    """Raise a ValueError if a tensor's shape differs from the config's."""
    if given != wanted:
        raise ValueError(
            f"{where}: {name} has shape {given}, the config says {wanted}: use the config that belongs to these weights"
        )


def _abbreviated(names: list[str]) -> str:
    return (", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")) or "none"
