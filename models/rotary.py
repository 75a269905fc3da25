"""Rotary positions: queries and keys are turned by angles that grow with their place in the sequence.

Shapes: B sequences, T tokens, H heads, S head size. The layout is "rotate half": coordinate i is turned together with
i + S / 2, as in Hugging Face's Llama.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.config import DecoderConfig


class Rotary(NamedTuple):
    """cos and sin of every position's angles, float32, [T, S] or, with positions of each row's own, [B, T, S]."""

    cos: Tensor
    sin: Tensor


def frequencies(config: DecoderConfig, device: torch.device | str = "cpu") -> Tensor:
    """Return the angle in radians that each pair of coordinates turns by from token to token, float32 [S / 2].

    theta^(-2i / S) (Su et al., arXiv 2104.09864), stretched by a factor f so that longer texts are read:
    `linear` divides all by f (Chen et al., arXiv 2306.15595); `ntk` puts theta * f^(S / (S - 2)) for theta, which keeps
    the fastest and divides the slowest by f (the static form; transformers calls its relative that grows with the
    sequence "dynamic", and they meet where the sequence is 2 - 1 / f times the trained length); `llama3` divides long
    waves by f, keeps short ones and blends between (as Llama 3.1 and transformers' "llama3").
    """
    size, factor = config.head_size, config.rope_factor
    theta = config.rope_theta
    if config.rope_scaling == "ntk":
        theta *= factor ** (size / (size - 2))
    plain = 1.0 / theta ** (torch.arange(0, size, 2, device=device, dtype=torch.float32) / size)
    if config.rope_scaling == "linear":
        return plain / factor
    if config.rope_scaling != "llama3":
        return plain
    original, low, high = config.rope_original_seq_len, config.rope_low_factor, config.rope_high_factor
    assert original is not None and low is not None and high is not None  # noqa: PT018  # the config sees to it
    turns = original * plain / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 - kept) * plain / factor + kept * plain


def rotary_table(
    config: DecoderConfig, tokens: int, device: torch.device, positions_BT: Tensor | None = None
) -> Rotary:
    """Return cos and sin for positions 0 .. tokens - 1, or for `positions_BT` (whole numbers).

    Made anew for every forward pass: it takes 0.2 ms for 2,048 tokens on one core, and nothing can then be left in the
    wrong dtype, on the wrong device or without gradients by an earlier pass.
    """
    positions = torch.arange(tokens, device=device) if positions_BT is None else positions_BT.to(device)
    angles = positions[..., None].to(torch.float32) * frequencies(config, device)
    cos, sin = angles.cos(), angles.sin()
    return Rotary(torch.cat([cos, cos], dim=-1), torch.cat([sin, sin], dim=-1))


def rotate(x_BTHS: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn queries or keys by a Rotary's `cos` and `sin`; computed in float32, returned in the dtype of `x_BTHS`.

    The backward pass turns gradients back, so nothing but the table is kept for it.
    """
    turned: Tensor = _Rotate.apply(x_BTHS, cos, sin)
    return turned


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTHS: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x_BTHS, cos, sin)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(grads[0], cos, -sin), None, None


def _turn(x_BTHS: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    half = x_BTHS.shape[-1] // 2
    signed = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
    x = x_BTHS.float()
    # Half a roll brings each coordinate to its partner's place: two passes, faster on the CPU than any of halves.
    turned = (x * cos[..., :, None, :]).addcmul_(x.roll(half, dims=-1), signed[..., :, None, :])
    return turned.to(x_BTHS.dtype)
