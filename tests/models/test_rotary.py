"""RoPE: the angles equal transformers', and rotating keeps only the table for the backward pass."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from models.config import DecoderConfig
from models.decoder import build
from models.rotary import Rotary, frequencies, rotary_table, rotate

CPU = torch.device("cpu")
CONFIG = DecoderConfig(
    vocab_size=50, layers=2, width=64, heads=4, kv_heads=2, ffn=24, max_seq_len=64, rope_theta=5000.0, end_of_text=0
)
LLAMA3: dict[str, Any] = {
    "rope_scaling": "llama3",
    "rope_factor": 8.0,
    "rope_original_seq_len": 256,
    "rope_low_factor": 1.0,
    "rope_high_factor": 4.0,
}


def theirs(config: DecoderConfig, **parameters: Any) -> Any:
    """Return transformers' rotary embedding for the same shape."""
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    return LlamaRotaryEmbedding(
        LlamaConfig(
            hidden_size=config.width,
            num_attention_heads=config.heads,
            max_position_embeddings=config.max_seq_len,
            rope_parameters={"rope_theta": config.rope_theta, **parameters},
        )
    )


@pytest.mark.parametrize(
    ("ours", "parameters"),
    [
        ({}, {"rope_type": "default"}),
        ({"rope_scaling": "linear", "rope_factor": 4.0}, {"rope_type": "linear", "factor": 4.0}),
        (
            LLAMA3,
            {
                "rope_type": "llama3",
                "factor": 8.0,
                "original_max_position_embeddings": 256,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            },
        ),
    ],
    ids=["plain", "linear", "llama3"],
)
def test_angles_are_those_of_transformers(ours, parameters):
    config = replace(CONFIG, **ours)
    rotary = theirs(config, **parameters)
    torch.testing.assert_close(frequencies(config), rotary.inv_freq, rtol=1e-6, atol=0)
    cos, sin = rotary(torch.zeros(1), torch.arange(200)[None])
    table = rotary_table(config, 200, CPU)
    torch.testing.assert_close(table.cos, cos[0], rtol=0, atol=2e-5)
    torch.testing.assert_close(table.sin, sin[0], rtol=0, atol=2e-5)


@pytest.mark.parametrize("factor", [2.0, 4.0, 10.0])
def test_ntk_meets_the_dynamic_form_of_transformers_at_one_length(factor):
    config = replace(CONFIG, rope_scaling="ntk", rope_factor=factor)
    rotary = theirs(config, rope_type="dynamic", factor=factor)
    length = (2 - 1 / factor) * config.max_seq_len
    assert length == round(length * 10) / 10
    # What transformers would compute if sequences could have that (broken) length.
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    expected, attention_factor = ROPE_INIT_FUNCTIONS["dynamic"](rotary.config, "cpu", seq_len=length)
    assert attention_factor == 1.0
    torch.testing.assert_close(frequencies(config), expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("factor", [2.0, 8.0])
def test_ntk_is_a_plain_table_of_a_larger_theta(factor):
    config = replace(CONFIG, rope_scaling="ntk", rope_factor=factor)
    plain = replace(CONFIG, rope_theta=CONFIG.rope_theta * factor ** (16 / 14))
    torch.testing.assert_close(frequencies(config), frequencies(plain), rtol=1e-6, atol=0)
    assert frequencies(config)[0] == 1
    torch.testing.assert_close(frequencies(config)[-1], frequencies(CONFIG)[-1] / factor, rtol=1e-5, atol=0)


def test_llama3_keeps_short_waves_and_stretches_long_ones():
    config = replace(CONFIG, **LLAMA3)
    ratio = frequencies(config) / frequencies(CONFIG)
    torch.testing.assert_close(ratio[[0, -1]], torch.tensor([1.0, 1 / 8]))
    assert (ratio.diff() <= 1e-6).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_turning_is_that_of_transformers(dtype):
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    torch.manual_seed(0)
    table = rotary_table(CONFIG, 20, CPU)
    x = torch.randn(2, 20, 3, 16, dtype=dtype, requires_grad=True)
    copy = x.detach().float().requires_grad_()
    ours = rotate(x, *table)
    expected, _ = apply_rotary_pos_emb(copy, copy, table.cos, table.sin, unsqueeze_dim=1)
    assert ours.dtype == dtype
    torch.testing.assert_close(ours, expected.to(dtype))
    weights = torch.randn(2, 20, 3, 16).to(dtype)
    ours.backward(weights)
    expected.backward(weights.float())
    torch.testing.assert_close(x.grad, copy.grad.to(dtype))


def test_turning_keeps_nothing_but_the_table():
    table = rotary_table(CONFIG, 20, CPU)
    x = torch.randn(2, 20, 3, 16, dtype=torch.bfloat16, requires_grad=True)
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        rotate(x, *table)
    assert sorted(kept) == sorted(t.data_ptr() for t in table)


def test_scores_depend_on_distance_alone():
    torch.manual_seed(0)
    q, k = torch.randn(16), torch.randn(16)
    turned_q, turned_k = (rotate(x.expand(1, 16, 1, 16), *rotary_table(CONFIG, 16, CPU))[0, :, 0] for x in (q, k))
    scores = turned_q @ turned_k.T
    for distance in range(1, 8):
        diagonal = scores.diagonal(-distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-4, atol=1e-5)


def test_positions_may_come_from_outside():
    decoder = build(CONFIG, 0)
    ids = torch.randint(1, 50, (2, 12), generator=torch.Generator().manual_seed(0))
    ids[0, 5] = 0
    plain = decoder.hidden(ids)
    counted = torch.arange(12).expand(2, 12)
    assert torch.equal(decoder.hidden(ids, positions_BT=counted), plain)
    # Restarting positions at each document rotates queries and keys equally: the same numbers up to rounding.
    restarted = counted.clone()
    restarted[0, 5:] -= 5
    torch.testing.assert_close(decoder.hidden(ids, positions_BT=restarted), plain, rtol=1e-4, atol=1e-5)
    assert (decoder.hidden(ids, positions_BT=counted * 2) - plain).abs().max() > 1e-4
    labels = torch.cat([ids, ids[:, :1]], dim=1)
    doubled = decoder(labels, positions_BT=counted * 2).losses_BT
    assert not torch.equal(doubled, decoder(labels).losses_BT)


def test_linear_scaling_is_a_division_of_positions():
    decoder = build(CONFIG, 0)
    stretched = build(replace(CONFIG, rope_scaling="linear", rope_factor=2.0), 0)
    ids = torch.randint(1, 50, (1, 12), generator=torch.Generator().manual_seed(0))
    halves = torch.arange(12)[None] / 2
    torch.testing.assert_close(stretched.hidden(ids), decoder.hidden(ids, positions_BT=halves))


def test_the_table_stays_float32_when_the_model_is_not():
    decoder = build(CONFIG, 0).to(torch.bfloat16)
    table = rotary_table(decoder.config, 2048, CPU)
    assert isinstance(table, Rotary)
    assert table.cos.dtype == table.sin.dtype == torch.float32
    assert not list(decoder.buffers())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rope_scaling": "yarn"}, "model.rope_scaling='yarn' is unknown: use one of none, linear, ntk, llama3"),
        ({"rope_factor": 2.0}, "model.rope_factor=2.0 has no effect: set model.rope_scaling too"),
        ({"rope_scaling": "linear"}, "model.rope_factor=1.0 must be above 1 with linear scaling"),
        ({"rope_theta": 0.0}, "model.rope_theta=0.0 must be above 0"),
        (
            {"rope_low_factor": 1.0},
            "model.rope_low_factor=1.0 has no effect: it needs model.rope_scaling=llama3",
        ),
        ({**LLAMA3, "rope_original_seq_len": None}, "not None, 1.0 and 4.0"),
        ({**LLAMA3, "rope_low_factor": 4.0}, "between 0 and rope_high_factor, not 256, 4.0 and 4.0"),
        ({"rope_scaling": "ntk", "rope_factor": 2.0, "heads": 32, "kv_heads": 2}, "head size of at least 4, not 2"),
    ],
)
def test_what_cannot_be_is_refused(changes, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        replace(CONFIG, **changes)
