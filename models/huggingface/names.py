"""The names that Hugging Face's Llama gives to a Decoder's tensors, and the checks that both directions share.

Both sides rotate queries and keys in the "rotate half" layout and keep matrices as [out, in], so a tensor never changes
on its way, only its name does. `tensor_names` is the one table, read forwards by `write.py` and backwards by `read.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

from models.config import DecoderConfig

ARCHITECTURE = "LlamaForCausalLM"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def tensor_names(config: DecoderConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return, for each of a Decoder's tensors, its Hugging Face name and its shape."""
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


def compare_names(given: Iterable[str], wanted: Iterable[str], where: str, mend: str) -> None:
    """Raise a ValueError naming the tensors that are missing or unexpected `where` they were found."""
    have, need = set(given), set(wanted)
    missing, unexpected = sorted(need - have), sorted(have - need)
    if missing or unexpected:
        raise ValueError(f"{where}: missing tensors {_few(missing)}, unexpected tensors {_few(unexpected)}: {mend}")


def compare_shape(name: str, given: tuple[int, ...], wanted: tuple[int, ...], where: str) -> None:
    """Raise a ValueError if a tensor's shape is not the one that the config asks for."""
    if given != wanted:
        raise ValueError(f"{where}: {name} has shape {given}, the config says {wanted}: use its own config")


def _few(names: list[str]) -> str:
    return (", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")) or "none"
