"""Losses of chosen labels, differentiable one by one: for objectives that are not a sum over labels.

Shapes: A labels, W width, V vocabulary, C labels per chunk.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from models.kernels.choice import choose
from models.kernels.interface import Kernels
from models.losses.cross_entropy import CHUNK_LOGITS, add_product


def label_losses(hidden_AW: Tensor, weight_VW: Tensor, labels_A: Tensor, kernels: Kernels | None = None) -> Tensor:
    """Return -log softmax(hidden @ weight.T)[label] of every label, float32 nats [A].

    Logits exist for one chunk of labels at a time and are computed again in the backward pass, because only then is
    each label's gradient known: one matrix product more than `linear_cross_entropy`, which computes its gradients in
    the forward pass and needs a sum for that. O(A * V * W) time; the same memory.
    """
    kernels = kernels or choose("auto", hidden_AW.device.type)
    if not torch.is_grad_enabled():
        hidden_AW, weight_VW = hidden_AW.detach(), weight_VW.detach()
    losses_A: Tensor = _LabelLosses.apply(hidden_AW, weight_VW, labels_A, kernels)
    return losses_A


class _LabelLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_AW: Tensor, weight_VW: Tensor, labels_A: Tensor, kernels: Kernels) -> Tensor:
        losses_A = torch.zeros(len(labels_A), dtype=torch.float32, device=hidden_AW.device)
        for part in _chunks(hidden_AW, weight_VW):
            logits_CV = hidden_AW[part] @ weight_VW.t()
            kernels.cross_entropy_(logits_CV, labels_A[part], losses_A[part], None, 0.0, False)
        ctx.save_for_backward(hidden_AW, weight_VW, labels_A)
        ctx.kernels = kernels
        return losses_A

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_AW, weight_VW, labels_A = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden_AW) if ctx.needs_input_grad[0] else None
        grad_weight: Tensor | None = None
        chunks = list(_chunks(hidden_AW, weight_VW))
        for part in chunks:
            hidden_CW, labels_C, slopes_C1 = hidden_AW[part], labels_A[part], grads[0][part, None]
            logits_CV = hidden_CW @ weight_VW.t()
            unused_C = torch.empty(len(labels_C), dtype=torch.float32, device=hidden_AW.device)
            ctx.kernels.cross_entropy_(logits_CV, labels_C, unused_C, None, 0.0, True)
            if grad_hidden is not None:
                torch.mm(logits_CV, weight_VW, out=grad_hidden[part]).mul_(slopes_C1)
            if ctx.needs_input_grad[1]:
                scaled_CW = (hidden_CW * slopes_C1).to(hidden_CW.dtype)
                grad_weight = add_product(grad_weight, logits_CV, scaled_CW, only=len(chunks) == 1)
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight_VW.dtype)
        return grad_hidden, grad_weight, None, None


def _chunks(hidden_AW: Tensor, weight_VW: Tensor) -> list[slice]:
    labels = len(hidden_AW)
    size = max(1, CHUNK_LOGITS * 4 // hidden_AW.element_size() // weight_VW.shape[0])
    return [slice(first, min(first + size, labels)) for first in range(0, labels, size)]
