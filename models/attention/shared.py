"""Attention over prompts whose answers share them: a prompt is computed once, however many answers it has.

A document is a prompt followed by branches. A token of the prompt attends to the prompt up to itself; a token of a
branch attends to the whole prompt and to its own branch up to itself, never to another branch. It is the attention of
every branch with a prompt of its own, at the cost of one prompt (Wang and Hegde, "Accelerating Direct Preference
Optimization with Prefix Sharing", arXiv 2410.20305).

Shapes: N tokens, H query heads, K key heads, S head size, T tokens of a piece, L of a branch, P of a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.attention.backend import Backend
from models.attention.documents import Documents

BUNDLE = 192
"""Tokens up to which adjacent documents share one call with a mask: many small calls cost more than masked products."""


@dataclass(frozen=True, eq=False)
class SharedPrompts(Documents):
    """Documents that are prompts with branches, in one row."""

    parts: tuple[tuple[int, ...], ...] = ()
    """Of each document: tokens of its prompt, which may be 0, then tokens of each branch, at least 1."""

    @classmethod
    def of_parts(cls, parts: Sequence[Sequence[int]]) -> SharedPrompts:
        """Return the documents with these lengths of prompt and branches."""
        return cls(tuple(map(sum, parts)), 1, tuple(map(tuple, parts)))


@dataclass(frozen=True, eq=False)
class Piece:
    """Adjacent documents that are computed by one masked call, or one long document."""

    tokens: int
    mask_TT: Tensor | None
    """Of short documents, bool: True where a token may attend to another."""
    sizes: tuple[int, ...]
    """Of a long document: its prompt and branches."""
    masks: tuple[Tensor, ...] = ()
    """Of a long document: for every branch, which keys of prompt and branch a token may attend to, bool [L, P + L]."""


def layout(documents: Documents, device: torch.device) -> list[Piece]:
    """Bundle short documents, and prepare the masks."""
    assert isinstance(documents, SharedPrompts)
    pieces: list[Piece] = []
    bundle: list[tuple[int, ...]] = []
    for parts in documents.parts:
        if bundle and sum(map(sum, bundle)) + sum(parts) > BUNDLE:
            pieces.append(_bundled(bundle, device))
            bundle = []
        if sum(parts) > BUNDLE:
            pieces.append(_long(parts, device))
        else:
            bundle.append(parts)
    return [*pieces, _bundled(bundle, device)] if bundle else pieces


def _bundled(bundle: Sequence[tuple[int, ...]], device: torch.device) -> Piece:
    sizes = torch.tensor([size for parts in bundle for size in parts])
    document = torch.tensor([number for number, parts in enumerate(bundle) for _ in parts])
    branch = torch.tensor([number for parts in bundle for number, _ in enumerate(parts)])
    document_T, branch_T = document.repeat_interleave(sizes), branch.repeat_interleave(sizes)
    same_TT = document_T[:, None] == document_T[None, :]
    seen_TT = (branch_T[:, None] == branch_T[None, :]) | (branch_T[None, :] == 0)
    mask_TT = (same_TT & seen_TT).tril()
    return Piece(len(document_T), mask_TT.to(device), ())


def _long(parts: tuple[int, ...], device: torch.device) -> Piece:
    prompt, *branches = parts
    masks = tuple(torch.ones(size, prompt + size, dtype=torch.bool).tril(prompt).to(device) for size in branches)
    return Piece(sum(parts), None, parts, masks)


def attend(q_NHS: Tensor, k_NKS: Tensor, v_NKS: Tensor, pieces: list[Piece]) -> Tensor:
    """Attend piece by piece."""
    split = ([piece.tokens for piece in pieces],)
    outs = []
    for piece, q, k, v in zip(pieces, q_NHS.split(*split), k_NKS.split(*split), v_NKS.split(*split), strict=True):
        outs.append(_call(q, k, v, piece.mask_TT) if piece.mask_TT is not None else _attend_long(q, k, v, piece))
    return outs[0] if len(outs) == 1 else torch.cat(outs)


def _attend_long(q_THS: Tensor, k_TKS: Tensor, v_TKS: Tensor, piece: Piece) -> Tensor:
    (q, *qs), (k, *ks), (v, *vs) = (x.split(piece.sizes) for x in (q_THS, k_TKS, v_TKS))
    outs = [_call(q, k, v, None)] if len(q) else []
    for q_LHS, k_LKS, v_LKS, mask in zip(qs, ks, vs, piece.masks, strict=True):
        own = (q_LHS, k_LKS, v_LKS)
        if torch.is_grad_enabled():  # recomputed: a copy of the prompt's keys and values per branch is not kept
            out = checkpoint(_branch, *own, k, v, mask, use_reentrant=False, preserve_rng_state=False)
        else:
            out = _branch(*own, k, v, mask)
        outs.append(out)
    return torch.cat(outs)


def _branch(q: Tensor, k: Tensor, v: Tensor, prompt_k: Tensor, prompt_v: Tensor, mask: Tensor) -> Tensor:
    return _call(q, torch.cat([prompt_k, k]), torch.cat([prompt_v, v]), mask)


def _call(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Attend once, causally without a mask; inputs and output [T, H, S]."""
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)
    return out[0].transpose(0, 1)


BACKEND = Backend("shared", layout, attend)
