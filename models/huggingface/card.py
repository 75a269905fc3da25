"""The model card: README.md of an export, with front matter for the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Mapping

from models.config import DecoderConfig

TAG = "- pdpc"
"""The line of the front matter that marks an export of PDPC."""
PREAMBLE = f"""---
library_name: transformers
pipeline_tag: text-generation
tags:
- llama
{TAG}
---
"""


def model_card(
    config: DecoderConfig, dtype: str, *, title: str = "A decoder trained with PDPC", making: str | None = None
) -> str:
    """Return the card of a decoder stored as `dtype`; `making` is a Markdown section on how it was trained."""
    counts = config.parameters()
    tied = "the embedding itself" if config.tie_embeddings else f"{counts.head:,}"
    shape = {
        "parameters": f"{counts.total:,} ({counts.body:,} without embedding and head)",
        "embedding, attention, ffn, norm, head": f"{counts.embedding:,}, {counts.attention:,}, {counts.ffn:,}, "
        f"{counts.norm:,}, {tied}",
        "layers, width, ffn": f"{config.layers}, {config.width}, {config.ffn}",
        "heads, key/value heads, head size": f"{config.heads}, {config.kv_heads}, {config.head_size}",
        "vocabulary, context in tokens": f"{config.vocab_size:,}, {config.max_seq_len:,}",
        "weights": dtype,
    }
    parts = [
        PREAMBLE,
        f"# {title}\n",
        f"A Llama-family decoder of {counts.total:,} parameters. It loads with plain transformers:\n",
        "    from transformers import AutoModelForCausalLM\n\n"
        "    model = AutoModelForCausalLM.from_pretrained(folder)\n",
        "## Shape\n",
        table(shape, "what", "size"),
    ]
    return "\n".join(parts if making is None else [*parts, making])


def table(rows: Mapping[str, str], *titles: str) -> str:
    """Return two columns as a Markdown table; bars in cells are escaped."""
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    lines += [f"| {_cell(name)} | {_cell(value)} |" for name, value in rows.items()]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
