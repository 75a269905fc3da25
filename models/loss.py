"""The head and the cross-entropy in one: logits live for one chunk of tokens at a time.

Shapes: N tokens, W width, V vocabulary, C tokens of a chunk.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

IGNORED = -100
"""Label of a position that has no loss; the same value marks padding in samples."""

CHUNK_LOGITS = 1 << 24
"""Logits held at once, in elements: 64 MiB in float32."""

INFERENCE_CHUNK_LOGITS = 1 << 20
"""The same where no gradients are made: what a core's cache nearly holds."""


class TokenLosses(NamedTuple):
    """What a batch costs: `total` (scalar, float32, differentiable sum in nats) and each token's loss, detached."""

    total: Tensor
    losses_BT: Tensor


def linear_cross_entropy(hidden_NW: Tensor, weight_VW: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum over tokens of -log softmax(hidden @ weight.T)[label], and each token's loss [N] (detached).

    Losses are float32 nats, 0 where the label is IGNORED. Gradients are computed in the forward pass, chunk by chunk,
    so that neither all logits nor a second matrix product are needed.
    """
    if not torch.is_grad_enabled():  # a custom function sees parameters as needing gradients even then
        hidden_NW, weight_VW = hidden_NW.detach(), weight_VW.detach()
    total, losses_N = _LinearCrossEntropy.apply(hidden_NW, weight_VW, labels_N)
    return total, losses_N


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden_NW: Tensor, weight_VW: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        losses_N = torch.zeros(len(labels_N), dtype=torch.float32, device=hidden_NW.device)
        grad_hidden = torch.empty_like(hidden_NW) if needs_hidden else None
        grad_weight = torch.zeros_like(weight_VW, dtype=torch.float32) if needs_weight else None
        limit = CHUNK_LOGITS if needs_hidden or needs_weight or hidden_NW.is_cuda else INFERENCE_CHUNK_LOGITS
        chunk = max(1, limit // weight_VW.shape[0])
        for start in range(0, len(labels_N), chunk):
            part = slice(start, start + chunk)
            labels_C = labels_N[part]
            probability_CV = _softmax_((hidden_NW[part] @ weight_VW.t()).float(), labels_C, losses_N[part])
            if grad_hidden is None and grad_weight is None:
                continue
            slope_CV = _slope_(probability_CV, labels_C).to(hidden_NW.dtype)
            if grad_hidden is not None:
                torch.mm(slope_CV, weight_VW, out=grad_hidden[part])
            if grad_weight is not None:
                grad_weight += slope_CV.t() @ hidden_NW[part]
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight_VW.dtype
        ctx.mark_non_differentiable(losses_N)
        return losses_N.sum(), losses_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grads[0]
        return (
            (grad_hidden.float() * scale).to(grad_hidden.dtype) if grad_hidden is not None else None,
            (grad_weight * scale).to(ctx.weight_dtype) if grad_weight is not None else None,
            None,
        )


def _softmax_(logits_CV: Tensor, labels_C: Tensor, losses_C: Tensor) -> Tensor:
    """Turn logits into probabilities in place and write each label's loss: one pass over the logits serves both.

    The loss is taken through the largest logit, so that it stays exact where the label's probability underflows.
    """
    real_C = labels_C != IGNORED
    index_C1 = labels_C.clamp(min=0)[:, None]
    label_logit_C = logits_CV.gather(1, index_C1).squeeze(1)
    largest_C = logits_CV.amax(dim=1)
    probability_CV = torch.softmax(logits_CV, dim=-1, out=logits_CV)
    # -log p(label) = (largest - label) - log p(largest), and p(largest) is the largest probability.
    losses_C.copy_(torch.where(real_C, largest_C - label_logit_C - probability_CV.amax(dim=1).log(), 0.0))
    return probability_CV


def _slope_(probability_CV: Tensor, labels_C: Tensor) -> Tensor:
    """Return d loss / d logits in place of the probabilities: minus one at the label, 0 where ignored."""
    index_C1 = labels_C.clamp(min=0)[:, None]
    probability_CV.scatter_add_(1, index_C1, torch.full_like(index_C1, -1, dtype=probability_CV.dtype))
    return probability_CV.mul_((labels_C != IGNORED)[:, None])
