"""Predicted activations compared with what autograd saves, tensor by tensor."""

from __future__ import annotations

from itertools import count

import pytest
import torch

from launch.estimate.activations import activation_bytes
from models.attention import Documents
from models.config import DecoderConfig
from models.decoder import build
from models.execution import ExecutionSettings

SHAPES = [
    # layers, width, heads, kv_heads, ffn, samples, tokens, checkpointing, dtype, attention
    (2, 64, 4, 4, 172, 2, 96, "none", torch.bfloat16, "blocks"),
    (2, 64, 4, 4, 172, 2, 96, "none", torch.float32, "blocks"),
    (3, 64, 4, 2, 172, 1, 200, "none", torch.bfloat16, "blocks"),
    (3, 64, 4, 1, 172, 1, 200, "none", torch.float32, "blocks"),
    (1, 96, 6, 3, 256, 4, 64, "none", torch.bfloat16, "blocks"),
    (4, 32, 2, 1, 96, 3, 128, "none", torch.bfloat16, "blocks"),
    (2, 128, 2, 2, 344, 1, 160, "none", torch.bfloat16, "blocks"),
    (2, 128, 8, 2, 344, 2, 80, "none", torch.float32, "blocks"),
    (2, 64, 4, 4, 172, 2, 96, "none", torch.float32, "sdpa"),
    (3, 96, 6, 6, 256, 1, 128, "none", torch.float32, "sdpa"),
    (2, 64, 4, 4, 172, 2, 96, "full", torch.bfloat16, "blocks"),
    (4, 64, 4, 2, 172, 2, 96, "full", torch.float32, "blocks"),
    (3, 128, 4, 4, 344, 1, 256, "full", torch.bfloat16, "blocks"),
    (2, 64, 4, 4, 172, 2, 96, "selective", torch.bfloat16, "blocks"),
    (4, 64, 4, 2, 172, 2, 96, "selective", torch.float32, "blocks"),
    (3, 128, 4, 4, 344, 1, 256, "selective", torch.bfloat16, "blocks"),
    (4, 64, 4, 4, 172, 2, 96, "every", torch.bfloat16, "blocks"),
    (5, 64, 4, 2, 172, 2, 96, "every", torch.float32, "blocks"),
    (3, 64, 4, 4, 172, 2, 96, "every", torch.bfloat16, "blocks"),
    (6, 48, 3, 3, 128, 8, 48, "none", torch.bfloat16, "blocks"),
]
VOCABULARY = 64


def saved_bytes(decoder, samples: int, tokens: int) -> int:
    """Return the bytes of all distinct memory that the graph of a forward pass holds, parameters left out."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in decoder.parameters()}
    kept, number = {}, count()

    def pack(tensor):
        kept[next(number)] = tensor.untyped_storage()
        return tensor

    ids = torch.randint(0, VOCABULARY, (samples, tokens + 1), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        hidden = decoder.hidden(ids[:, :-1], Documents((tokens,) * samples, samples))
    assert hidden.requires_grad
    sizes = {storage.data_ptr(): storage.nbytes() for storage in kept.values() if storage.data_ptr() not in weights}
    return sum(sizes.values())


@pytest.mark.parametrize("shape", SHAPES)
def test_activations_are_what_autograd_saves(shape):
    layers, width, heads, kv_heads, ffn, samples, tokens, mode, dtype, attention = shape
    config = DecoderConfig(
        vocab_size=VOCABULARY,
        layers=layers,
        width=width,
        heads=heads,
        kv_heads=kv_heads,
        ffn=ffn,
        max_seq_len=tokens,
        attention=attention,
    )
    execution = ExecutionSettings(kernels="plain", checkpointing=mode)
    decoder = build(config, 0, execution).to(dtype)
    saved = saved_bytes(decoder, samples, tokens)
    if mode in ("full", "selective"):  # what recomputation reads, autograd does not save: the rotary table
        saved += 2 * 4 * tokens * config.head_size
    assert activation_bytes(config, execution, samples, tokens, dtype.itemsize) == pytest.approx(saved, rel=0.01)


def test_a_token_of_1_3b_keeps_what_the_formula_says():
    """docs/models.md: 1.58 MB per token, by hand: 24 blocks of 2 * (4 * 2048 * 2 + 3 * 5504) + 4 * 16 + 8 bytes."""
    config = DecoderConfig(vocab_size=50_304, layers=24, width=2048, heads=16, kv_heads=16, ffn=5504, max_seq_len=2048)
    block = 2 * (4 * 2048 + 2 * 2048 + 2 * 2048 + 3 * 5504) + 4 * 16 + 8
    once = 2 * 2048 + 12
    assert activation_bytes(config, ExecutionSettings(), 1, 2048, 2) == 2048 * (24 * block + once) + 8 * 2048 * 128
