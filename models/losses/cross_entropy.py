"""Head and cross-entropy fused: logits exist for one chunk of tokens at a time.

Shapes: N tokens, W width, V vocabulary, C tokens per chunk.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.kernels.choice import choose
from models.kernels.interface import IGNORED, Kernels

CHUNK_LOGITS = 1 << 25
"""Logits held at once, in float32 elements (twice as many in bfloat16): 128 MiB."""

PRODUCT_AT_ONCE = 1 << 22
"""Elements of a 16-bit weight-gradient product held before it is added to the float32 sum: 8 MiB."""

SCALED_AT_ONCE = 1 << 20
"""Gradient elements scaled at once on the CPU: as many as fit in its cache."""


class TokenLosses(NamedTuple):
    """The losses of a batch in nats: `total` (float32 scalar, differentiable) and each token's loss (detached).

    `total` is the sum of the token losses, weighted if there are weights, plus, if the model has one, the z-loss.
    """

    total: Tensor
    losses_BT: Tensor


def linear_cross_entropy(
    hidden_NW: Tensor,
    weight_VW: Tensor,
    labels_N: Tensor,
    *,
    weights_N: Tensor | None = None,
    z_loss: float = 0.0,
    kernels: Kernels | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the sum over tokens of -log softmax(hidden @ weight.T)[label], and each token's loss [N] (detached).

    Losses are float32 nats, 0 where the label is IGNORED. A `z_loss` above 0 adds z_loss * logsumexp(logits)^2 of every
    token that has a loss to the sum, not to the losses (PaLM, arXiv 2204.02311, section 5). `weights_N`, float32,
    multiplies each token's terms of the sum, z-loss included, and so its gradients: any finite number, 1 if None. The
    losses stay unweighted, and no gradient flows into the weights.

    Gradients are computed in the forward pass, chunk by chunk, which avoids both materialising all logits and
    multiplying twice; they are released by the first backward pass, and a second one raises RuntimeError. O(N * V * W)
    time. Memory on top of the gradients: 4 * CHUNK_LOGITS bytes and, on CUDA with plain kernels, twice that again.
    """
    if kernels is None:
        kernels = choose("auto", hidden_NW.device.type)
    if not torch.is_grad_enabled():  # even then, parameters require gradients inside a custom function
        hidden_NW, weight_VW = hidden_NW.detach(), weight_VW.detach()
    total, losses_N = _LinearCrossEntropy.apply(hidden_NW, weight_VW, labels_N, weights_N, z_loss, kernels)
    return total, losses_N


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NW: Tensor,
        weight_VW: Tensor,
        labels_N: Tensor,
        weights_N: Tensor | None,
        z_loss: float,
        kernels: Kernels,
    ) -> tuple[Tensor, Tensor]:
        needs_hidden, needs_weight = ctx.needs_input_grad[0], ctx.needs_input_grad[1]
        tokens, vocabulary = len(labels_N), weight_VW.shape[0]
        losses_N = torch.zeros(tokens, dtype=torch.float32, device=hidden_NW.device)
        squares_N = torch.zeros_like(losses_N) if z_loss else None
        grad_hidden = torch.empty_like(hidden_NW) if needs_hidden else None
        grad_weight: Tensor | None = None
        chunk = min(tokens, max(1, CHUNK_LOGITS * 4 // hidden_NW.element_size() // vocabulary))
        logits = hidden_NW.new_empty(chunk, vocabulary)  # reused by all chunks: fresh pages cost as much as the softmax
        for start in range(0, tokens, chunk):
            part = slice(start, start + chunk)
            hidden_CW, labels_C = hidden_NW[part], labels_N[part]
            logits_CV = torch.mm(hidden_CW, weight_VW.t(), out=logits[: len(labels_C)])
            squares_C = squares_N[part] if squares_N is not None else None
            kernels.cross_entropy_(logits_CV, labels_C, losses_N[part], squares_C, z_loss, needs_hidden or needs_weight)
            ignored_C1 = (labels_C == IGNORED)[:, None]
            # A token's weight multiplies its row of width W on either side of the slopes: V is far wider.
            weights_C1 = weights_N[part, None] if weights_N is not None else None
            if grad_hidden is not None:
                grad_CW = torch.mm(logits_CV, weight_VW, out=grad_hidden[part]).masked_fill_(ignored_C1, 0)
                if weights_C1 is not None:
                    grad_CW.mul_(weights_C1)
            if needs_weight:
                kept_CW = hidden_CW.masked_fill(ignored_C1, 0)
                if weights_C1 is not None:
                    kept_CW.mul_(weights_C1)
                grad_weight = add_product(grad_weight, logits_CV, kept_CW, only=chunk == tokens)
        ctx.gradients = (grad_hidden, grad_weight)
        ctx.weight_dtype = weight_VW.dtype
        ctx.mark_non_differentiable(losses_N)
        ctx.set_materialize_grads(False)
        total = _weighted_sum(losses_N, weights_N)
        return total if squares_N is None else total + z_loss * _weighted_sum(squares_N, weights_N), losses_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("linear_cross_entropy: second backward pass, gradients already freed; run forward again")
        (grad_hidden, grad_weight), ctx.gradients = ctx.gradients, None
        scale = grads[0]
        if scale is None:
            return (None,) * 6
        if grad_hidden is not None:
            _scale_(grad_hidden, scale, grad_hidden)
        if grad_weight is not None:
            target = grad_weight if grad_weight.dtype == ctx.weight_dtype else None
            target = target if target is not None else torch.empty_like(grad_weight, dtype=ctx.weight_dtype)
            grad_weight = _scale_(grad_weight, scale, target)
        return grad_hidden, grad_weight, None, None, None, None


def _weighted_sum(values_N: Tensor, weights_N: Tensor | None) -> Tensor:
    return values_N.sum() if weights_N is None else (values_N * weights_N).sum()


def add_product(total_VW: Tensor | None, slopes_CV: Tensor, hidden_CW: Tensor, *, only: bool) -> Tensor:
    """Return total + slopes.T @ hidden: in float32, in place; in the operands' dtype if this is the `only` chunk."""
    if total_VW is None and (only or slopes_CV.dtype == torch.float32):
        return torch.mm(slopes_CV.t(), hidden_CW)
    if total_VW is not None and slopes_CV.dtype == torch.float32:
        return total_VW.addmm_(slopes_CV.t(), hidden_CW)
    if slopes_CV.is_cuda and torch.version.cuda and torch.cuda.get_device_capability(slopes_CV.device) >= (8, 0):
        if total_VW is None:
            return torch.mm(slopes_CV.t(), hidden_CW, out_dtype=torch.float32)
        return torch.addmm(total_VW, slopes_CV.t(), hidden_CW, out_dtype=torch.float32, out=total_VW)
    first = total_VW is None
    total = hidden_CW.new_empty(slopes_CV.shape[1], hidden_CW.shape[1], dtype=torch.float32) if first else total_VW
    assert total is not None
    rows = max(1, PRODUCT_AT_ONCE // hidden_CW.shape[1])
    for into, slopes_CR in zip(total.split(rows), slopes_CV.split(rows, dim=1), strict=True):
        product = torch.mm(slopes_CR.t(), hidden_CW)
        _ = into.copy_(product) if first else into.add_(product)
    return total


def _scale_(source: Tensor, scale: Tensor, target: Tensor) -> Tensor:
    """Write source * scale, computed in float32, to `target`, which may be `source`; return it."""
    at_once = len(source) if source.is_cuda else max(1, SCALED_AT_ONCE // source.shape[1])
    for rows, into in zip(source.split(at_once), target.split(at_once), strict=True):
        into.copy_(rows.float() * scale)
    return target
