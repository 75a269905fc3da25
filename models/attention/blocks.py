"""Attention on the CPU with a custom backward pass: forward bitwise equal to sdpa, backward by matrix products.

In bf16 the backward pass of torch's CPU kernel is slow. This one is faster, especially for short documents
(docs/attention.md has the numbers); documents of LONG tokens or more use torch's. It works on a block of queries at a
time and recomputes the weights from the logsumexp that the forward pass keeps per query (Dao et al., arXiv 2205.14135).
Only the inputs, the output and the logsumexps are kept, not a copy of the pack as in torch's own graph over pieces.

Shapes: N tokens, H query heads in K groups of G (H = K * G), S head size, C documents of a piece, L tokens of each,
Q queries of a block, P keys that they may read.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.attention import reference, sdpa
from models.attention.backend import ANY_FLOAT, Backend
from models.attention.documents import Documents

BLOCK = 128
"""Queries per block. Documents shorter than half of it are bundled up to this size."""

PIECE = 1024
"""Tokens of a run computed at once, unless one document is longer: more would not fit in the caches."""

LONG = 1024
"""Document length in tokens from which torch's own backward pass is no slower and needs less memory."""


@dataclass(frozen=True, eq=False)
class Piece:
    """Adjacent documents of equal length, or a bundle of short ones."""

    start: int
    count: int
    length: int
    hidden_LL: Tensor | None = None
    """Mask of a bundle, bool: True where a query may not attend to a key."""

    def fold(self, x_NHS: Tensor, groups: int) -> Tensor:
        """Return this piece of queries, keys or values in K = `groups` groups, [C * K, G, L, S]."""
        x = x_NHS[self.start : self.start + self.count * self.length]
        x = x.reshape(self.count, self.length, groups, x.shape[1] // groups, x.shape[2])
        return x.permute(0, 2, 3, 1, 4).flatten(0, 1).contiguous()

    def unfold_(self, into_NHS: Tensor, x: Tensor) -> None:
        """Write [C * K, G, L, S] back to its place in the batch."""
        into = into_NHS[self.start : self.start + self.count * self.length]
        shape = (self.count, x.shape[0] // self.count, x.shape[1], self.length, x.shape[3])
        into.view(self.count, self.length, *shape[1:3], shape[4]).copy_(x.view(shape).permute(0, 3, 1, 2, 4))

    def blocks(self) -> Iterator[tuple[slice, slice]]:
        """Yield, for every block, its queries and the keys up to its last query."""
        for start in range(0, self.length, BLOCK):
            end = min(start + BLOCK, self.length)
            yield slice(start, end), slice(0, end)

    def hide_(self, scores: Tensor, queries: slice) -> Tensor:
        """Set scores [C * K, G, Q, P] to minus infinity where a query may not attend."""
        hidden = self.hidden_LL
        if hidden is None:
            size = queries.stop - queries.start
            hidden = torch.ones(size, size, dtype=torch.bool, device=scores.device).triu_(1)
        scores[..., queries].masked_fill_(hidden, float("-inf"))
        return scores


class Layout(NamedTuple):
    """How a batch is split: into `runs` of equal length for the forward pass, `pieces` for the backward pass."""

    runs: tuple[sdpa.Run, ...]
    pieces: tuple[Piece, ...]


def layout(documents: Documents, device: torch.device) -> Layout:
    """Split a batch into runs of equal length; for the backward pass, bundle adjacent short documents."""
    pieces: list[Piece] = []
    start = 0
    for lengths in _bundles(documents.lengths):
        whole = sum(lengths)
        if len(set(lengths)) == 1:
            pieces.append(Piece(start, len(lengths), lengths[0]))
        else:
            pieces.append(Piece(start, 1, whole, ~reference.layout(Documents(tuple(lengths)), device)))
        start += whole
    return Layout(sdpa.layout(documents, device), tuple(pieces))


def _bundles(lengths: tuple[int, ...]) -> Iterator[list[int]]:
    """Yield lists of adjacent lengths that share a piece."""
    bundle: list[int] = []
    for length, group in groupby(lengths):
        run = list(group)
        large = len(run) * length >= BLOCK // 2
        if bundle and (large or sum(bundle) + sum(run) > BLOCK):
            yield bundle
            bundle = []
        if large:
            at_once = max(1, PIECE // length)
            yield from (run[first : first + at_once] for first in range(0, len(run), at_once))
        else:
            bundle += run
    if bundle:
        yield bundle


def attend(q_NHS: Tensor, k_NKS: Tensor, v_NKS: Tensor, layout: Layout) -> Tensor:
    """Attend run by run."""
    out: Tensor = _Blocks.apply(q_NHS, k_NKS, v_NKS, layout)
    return out


class _Blocks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_NHS: Tensor, k_NKS: Tensor, v_NKS: Tensor, layout: Layout) -> Tensor:
        out_NHS = torch.empty_like(q_NHS, memory_format=torch.contiguous_format)
        logsumexp_NH1 = q_NHS.new_empty((*q_NHS.shape[:2], 1), dtype=torch.float32)
        start = 0
        for number, length in layout.runs:
            here = slice(start, start + number * length)
            q, k, v = (x[here].unflatten(0, (number, length)).transpose(1, 2) for x in (q_NHS, k_NKS, v_NKS))
            out, logsumexp = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, is_causal=True)
            out_NHS[here] = out.transpose(1, 2).flatten(0, 1)
            logsumexp_NH1[here, :, 0] = logsumexp.transpose(1, 2).flatten(0, 1)
            start = here.stop
        ctx.pieces = layout.pieces
        ctx.save_for_backward(q_NHS, k_NKS, v_NKS, out_NHS, logsumexp_NH1)
        return out_NHS

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q_NHS, k_NKS, v_NKS, out_NHS, logsumexp_NH1 = ctx.saved_tensors
        grad_NHS = grads[0]
        dq_NHS, dk_NKS, dv_NKS = (torch.empty_like(x) for x in (q_NHS, k_NKS, v_NKS))
        # The softmax's correction of every score gradient: sum over keys of weight * d loss / d weight = grad . out.
        delta_NH1 = (grad_NHS * out_NHS).sum(dim=-1, keepdim=True, dtype=torch.float32)
        scale = q_NHS.shape[-1] ** -0.5
        for piece in ctx.pieces:
            groups = k_NKS.shape[1]
            if piece.length >= LONG and groups == q_NHS.shape[1] and piece.hidden_LL is None:
                _torch_backward_(
                    piece, (q_NHS, k_NKS, v_NKS), out_NHS, logsumexp_NH1, grad_NHS, (dq_NHS, dk_NKS, dv_NKS)
                )
                continue
            q, grad, logsumexp, delta = (piece.fold(x, groups) for x in (q_NHS, grad_NHS, logsumexp_NH1, delta_NH1))
            k, v = (piece.fold(x, groups)[:, 0] for x in (k_NKS, v_NKS))
            exact_q, exact_k = q.float() * scale, k.float()
            dq = torch.empty_like(q)
            dk, dv = (torch.zeros_like(x, dtype=torch.float32) for x in (k, v))
            for queries, keys in piece.blocks():
                # Scores in float32: rounding them would change sharp softmaxes.
                weights = _rows(torch.bmm(_flat(exact_q[:, :, queries]), exact_k[:, keys].mT), q)
                weights = piece.hide_(weights.sub_(logsumexp[:, :, queries]), queries).exp_()
                q_block, grad_block = _flat(q[:, :, queries]), _flat(grad[:, :, queries])
                dv[:, keys] += torch.bmm(_flat(weights.to(q.dtype)).mT, grad_block)
                score_grad = _rows(torch.bmm(grad_block, v[:, keys].mT), q) - delta[:, :, queries]
                score_grad = _flat(score_grad.mul_(weights).to(q.dtype))
                dq[:, :, queries] = _rows(torch.bmm(score_grad, k[:, keys]), q) * scale
                dk[:, keys] += torch.bmm(score_grad.mT, q_block)
            piece.unfold_(dq_NHS, dq)
            piece.unfold_(dk_NKS, dk.mul_(scale)[:, None])
            piece.unfold_(dv_NKS, dv[:, None])
        return dq_NHS, dk_NKS, dv_NKS, None


def _torch_backward_(
    piece: Piece,
    inputs: tuple[Tensor, Tensor, Tensor],
    out_NHS: Tensor,
    logsumexp_NH1: Tensor,
    grad_NHS: Tensor,
    into: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Write the gradients of a piece of equally long documents, using the backward of the forward pass's kernel."""
    here = slice(piece.start, piece.start + piece.count * piece.length)
    q, k, v, out, grad, logsumexp = (
        x[here].unflatten(0, (piece.count, piece.length)).transpose(1, 2)
        for x in (*inputs, out_NHS, grad_NHS, logsumexp_NH1)
    )
    kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    for x_NHS, gradient in zip(into, kernel(grad, q, k, v, out, logsumexp[..., 0], 0.0, True), strict=True):
        x_NHS[here] = gradient.transpose(1, 2).flatten(0, 1)


def _flat(x: Tensor) -> Tensor:
    """[C * K, G, Q, ...] as a batch of matrices [C * K, G * Q, ...]: a group's queries share keys."""
    return x.flatten(1, 2)


def _rows(x: Tensor, like: Tensor) -> Tensor:
    """Undo `_flat` with the groups of `like`."""
    return x.unflatten(1, (like.shape[1], -1))


def missing() -> str | None:
    """Return a message if this torch lacks the kernel, which is not public API."""
    if hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"):
        return None
    return f"needs a torch with the CPU kernel of scaled_dot_product_attention, not torch {torch.__version__}"


BACKEND = Backend(
    "blocks",
    layout,
    attend,
    devices=("cpu",),
    trains_on=("cpu",),
    fast_on=("cpu",),
    dtypes=ANY_FLOAT[:3],
    missing=missing,
)
