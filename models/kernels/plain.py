"""The fused functions in PyTorch, on any device: they keep as little for the backward pass as the math allows.

Shapes: W width, F inner size, C tokens per chunk, V vocabulary; others as in interface.py.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from models.kernels.interface import IGNORED, Kernels, Rotary
from models.rotary import rotate

BLOCK_LOGITS = 1 << 19
"""Logits per softmax block on the CPU: 2 MB in float32 stay in its cache."""


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight over the last dimension (Zhang and Sennrich, arXiv 1910.07467)."""
    if x.is_cuda:
        return F.rms_norm(x, (x.shape[-1],), weight, eps)  # one kernel each way, same activations kept
    normalised: Tensor = _RMSNorm.apply(x, weight, eps)
    return normalised


class _RMSNorm(torch.autograd.Function):
    """Eager F.rms_norm on the CPU keeps two float32 streams and has six functions in its backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        stream = x.float()
        norm = torch.linalg.vector_norm(stream, dim=-1, keepdim=True)
        scale = norm.square().div(x.shape[-1]).add(eps).rsqrt()
        ctx.save_for_backward(x, weight, scale)
        return (stream * scale).mul(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        unit = x.float() * scale
        grad = grads[0].float()
        product = grad * unit
        grad_weight = product.flatten(0, -2).sum(dim=0)
        along = torch.matmul(product, weight.float()).unsqueeze(-1) / x.shape[-1]
        grad_x = (grad * weight.float()).addcmul(unit, along, value=-1.0) * scale
        return grad_x.to(x.dtype), grad_weight.to(weight.dtype), None


def rotate_both(q_BTHS: Tensor, k_BTKS: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
    """Return queries and keys rotated by their positions."""
    return rotate(q_BTHS, *rotary), rotate(k_BTKS, *rotary)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up (Shazeer, arXiv 2002.05202)."""
    product: Tensor = _SwiGLU.apply(gate, up)
    return product


class _SwiGLU(torch.autograd.Function):
    """Eager silu(gate) * up also keeps silu(gate)."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        ctx.save_for_backward(gate, up)
        return F.silu(gate) * up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        return torch.ops.aten.silu_backward(grads[0] * up, gate), grads[0] * F.silu(gate)


def cross_entropy_(
    logits_CV: Tensor, labels_C: Tensor, losses_C: Tensor, squares_C: Tensor | None, z_loss: float, slopes: bool
) -> None:
    """Write losses, and overwrite logits with gradients: see Kernels.cross_entropy_."""
    rows = len(labels_C) if logits_CV.is_cuda else max(1, BLOCK_LOGITS // logits_CV.shape[1])
    for start in range(0, len(labels_C), rows):
        part = slice(start, start + rows)
        squares = squares_C[part] if squares_C is not None else None
        _cross_entropy_block_(logits_CV[part], labels_C[part], losses_C[part], squares, z_loss, slopes)


def _cross_entropy_block_(
    logits_CV: Tensor, labels_C: Tensor, losses_C: Tensor, squares_C: Tensor | None, z_loss: float, slopes: bool
) -> None:
    real_C = labels_C != IGNORED
    index_C1 = labels_C.clamp(min=0)[:, None]
    logits = logits_CV.float()
    label_logit_C = logits.gather(1, index_C1)[:, 0]
    largest_C = logits.amax(dim=1)
    probability = torch.softmax(logits, dim=-1, out=logits)
    # Use the largest logit, whose probability never underflows: logsumexp = largest - log p(largest).
    total_C = largest_C - probability.amax(dim=1).log()
    losses_C.copy_(torch.where(real_C, total_C - label_logit_C, 0.0))
    if squares_C is not None:
        squares_C.copy_(torch.where(real_C, total_C.square(), 0.0))
    if not slopes:
        return
    if z_loss:
        probability.mul_((1 + 2 * z_loss * total_C)[:, None])
    probability.scatter_add_(1, index_C1, torch.full_like(label_logit_C, -1.0)[:, None])
    if probability.data_ptr() != logits_CV.data_ptr():
        logits_CV.copy_(probability)


KERNELS = Kernels("plain", rms_norm, rotate_both, swiglu, cross_entropy_)
