"""Causal attention inside documents: rotary positions and scaled dot products, one call a document.

Shapes: B sequences, T tokens, N = B * T, H query heads, K key/value heads, S head size, D documents.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def document_lengths(ids_BT: Tensor, end_of_text: int | None) -> list[int]:
    """Return the lengths of the attention segments of a batch, row by row; they sum to B * T.

    A segment begins at the start of a row and at every `end_of_text`. Hand in host tensors where the device must not
    be waited for.
    """
    rows, tokens = ids_BT.shape
    if end_of_text is None:
        return [tokens] * rows
    starts_BT = ids_BT == end_of_text
    starts_BT[:, 0] = True
    bounds_D = torch.nonzero(starts_BT.flatten()).flatten()
    ends_D = torch.cat([bounds_D[1:], bounds_D.new_tensor([rows * tokens])])
    lengths: list[int] = (ends_D - bounds_D).tolist()
    return lengths


def rotary_table(tokens: int, head_size: int, theta: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cos and sin [T, S] in float32 in the "rotate half" layout (Su et al., arXiv 2104.09864)."""
    frequencies = theta ** (-torch.arange(0, head_size, 2, device=device, dtype=torch.float32) / head_size)
    angles = torch.outer(torch.arange(tokens, device=device, dtype=torch.float32), frequencies)
    angles_TS = torch.cat([angles, angles], dim=-1)
    return angles_TS.cos(), angles_TS.sin()


def rotate(x_BTHS: Tensor, cos_TS: Tensor, sin_TS: Tensor) -> Tensor:
    """Turn queries or keys by their positions; computed in float32, returned in the dtype of `x_BTHS`."""
    x = x_BTHS.float()
    low, high = x.chunk(2, dim=-1)
    turned = x * cos_TS[None, :, None, :] + torch.cat([-high, low], dim=-1) * sin_TS[None, :, None, :]
    return turned.to(x_BTHS.dtype)


def attend(q_NHS: Tensor, k_NKS: Tensor, v_NKS: Tensor, lengths: list[int]) -> Tensor:
    """Causal attention inside each of the consecutive segments of `lengths` tokens. Returns [N, H, S].

    Segments of equal length share a call; a call a document costs less than one masked call over the pack, and
    nothing leaks between documents because they never meet.
    """
    grouped = q_NHS.shape[1] != k_NKS.shape[1]
    if len(set(lengths)) == 1:
        rows = len(lengths)
        q, k, v = (x.view(rows, lengths[0], x.shape[1], x.shape[2]).transpose(1, 2) for x in (q_NHS, k_NKS, v_NKS))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        return out.transpose(1, 2).reshape_as(q_NHS)
    outs = []
    for q, k, v in zip(q_NHS.split(lengths), k_NKS.split(lengths), v_NKS.split(lengths), strict=True):
        out = F.scaled_dot_product_attention(
            q.transpose(0, 1)[None],
            k.transpose(0, 1)[None],
            v.transpose(0, 1)[None],
            is_causal=True,
            enable_gqa=grouped,
        )
        outs.append(out[0].transpose(0, 1))
    return torch.cat(outs)


def attend_reference(q_NHS: Tensor, k_NKS: Tensor, v_NKS: Tensor, lengths: list[int]) -> Tensor:
    """The same by plain softmax over an explicit mask: the yardstick for tests. Returns [N, H, S]."""
    tokens, heads, size = q_NHS.shape
    document_N = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)).to(q_NHS.device)
    position_N = torch.arange(tokens, device=q_NHS.device)
    allowed_NN = (document_N[:, None] == document_N[None, :]) & (position_N[:, None] >= position_N[None, :])
    repeats = heads // k_NKS.shape[1]
    k_NHS, v_NHS = (x.repeat_interleave(repeats, dim=1) for x in (k_NKS, v_NKS))
    scores_HNN = torch.einsum("nhs,mhs->hnm", q_NHS, k_NHS) * size**-0.5
    weights_HNN = scores_HNN.masked_fill(~allowed_NN, float("-inf")).softmax(dim=-1)
    return torch.einsum("hnm,mhs->nhs", weights_HNN, v_NHS)
