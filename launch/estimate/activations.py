"""Bytes that a forward pass keeps for the backward pass: what autograd saves, counted tensor by tensor.

Per token and block, e bytes per element, W width, Q and K width of queries and of keys, F inner size, H query heads:

    none        e * (4 W + 2 Q + 2 K + 3 F) + 4 H + 8     inputs of the products, of the norms and of attention;
                                                          logsumexp of attention; the scales of two norms
    selective   e * (W + 2 Q + 2 K) + 4 H                 what attention needs, and the block's input
    full        e * W                                     the block's input

Once: the final norm's input and scale, token ids, and the rotary table. (As Korthikanti et al., arXiv 2205.05198,
section 4.1, for this decoder and a flash kernel.)
"""

from __future__ import annotations

from models.config import DecoderConfig
from models.execution import ExecutionSettings

ROTARY_BYTES = 8
"""float32 cos and sin per position and coordinate."""


def recomputed_blocks(execution: ExecutionSettings, layers: int) -> int:
    """Return how many blocks run their forward pass again in the backward pass."""
    if execution.checkpointing == "every":
        return -(-layers // execution.checkpoint_every)
    return 0 if execution.checkpointing == "none" else layers


def bytes_per_token(decoder: DecoderConfig, mode: str, element: int) -> int:
    """Return the bytes that one block keeps per token in a mode of checkpointing (none, selective or full)."""
    queries, keys = decoder.heads * decoder.head_size, decoder.kv_heads * decoder.head_size
    whole = element * (4 * decoder.width + 2 * queries + 2 * keys + 3 * decoder.ffn) + 4 * decoder.heads + 8
    attention = element * (decoder.width + 2 * queries + 2 * keys) + 4 * decoder.heads
    return {"none": whole, "selective": attention, "full": element * decoder.width}[mode]


def activation_bytes(
    decoder: DecoderConfig, execution: ExecutionSettings, micro_batch: int, seq_len: int, element: int
) -> int:
    """Return the bytes that a micro-batch of `micro_batch` samples keeps; `element`: bytes per element.

    With `execution.compile` a compiler may keep less.
    """
    tokens = micro_batch * seq_len
    recomputed = recomputed_blocks(execution, decoder.layers)
    mode = "selective" if execution.checkpointing == "selective" else "full"
    blocks = recomputed * bytes_per_token(decoder, mode, element)
    blocks += (decoder.layers - recomputed) * bytes_per_token(decoder, "none", element)
    end = element * decoder.width + 4 + 8
    return tokens * (blocks + end) + ROTARY_BYTES * seq_len * decoder.head_size
