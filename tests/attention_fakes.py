"""Fakes of the attention kernels that need a GPU, with the real signatures: they check their arguments and compute."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

Call = dict[str, Any]


def softmax_attention(q_NHS: Tensor, k_NKS: Tensor, v_NKS: Tensor, starts_E: Tensor) -> Tensor:
    """Attend causally between bounds, head by head."""
    shared = q_NHS.shape[1] // k_NKS.shape[1]
    out_NHS = torch.empty_like(q_NHS)
    bounds = starts_E.tolist()
    for start, end in pairwise(bounds):
        hidden = torch.ones(end - start, end - start).triu(1).bool()
        for head in range(q_NHS.shape[1]):
            q, k, v = q_NHS[start:end, head], k_NKS[start:end, head // shared], v_NKS[start:end, head // shared]
            scores = (q.float() @ k.float().T) * q.shape[-1] ** -0.5
            out_NHS[start:end, head] = scores.masked_fill(hidden, float("-inf")).softmax(-1).to(v.dtype) @ v
    return out_NHS


def check_packed(q_NHS: Tensor, k_NKS: Tensor, v_NKS: Tensor, starts_E: Tensor, longest: int) -> None:
    """Check the kernels' requirements: [tokens, heads, size], 16 bits, int32 bounds from 0 to the last token."""
    assert q_NHS.dim() == 3
    assert k_NKS.shape == v_NKS.shape
    assert q_NHS.shape[::2] == k_NKS.shape[::2]
    assert q_NHS.dtype == k_NKS.dtype == v_NKS.dtype == torch.bfloat16
    assert all(x.stride(-1) == 1 for x in (q_NHS, k_NKS, v_NKS))
    assert starts_E.dtype == torch.int32
    assert starts_E.is_contiguous()
    assert (starts_E[0], starts_E[-1]) == (0, len(q_NHS))
    assert type(longest) is int
    assert longest == starts_E.diff().max()


def fake_flash(calls: list[Call]) -> Callable[..., Tensor]:
    """Return a fake with the signature of flash_attn 2.8.3's flash_attn_varlen_func."""

    def flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens_q,
        cu_seqlens_k,
        max_seqlen_q,
        max_seqlen_k,
        dropout_p=0.0,
        softmax_scale=None,
        causal=False,
        window_size=(-1, -1),
        softcap=0.0,
        alibi_slopes=None,
        deterministic=False,
        return_attn_probs=False,
        block_table=None,
    ):
        check_packed(q, k, v, cu_seqlens_q, max_seqlen_q)
        assert torch.equal(cu_seqlens_q, cu_seqlens_k)
        assert max_seqlen_q == max_seqlen_k
        assert causal is True
        rest = (dropout_p, softmax_scale, window_size, softcap, alibi_slopes, return_attn_probs, block_table)
        assert rest == (0.0, None, (-1, -1), 0.0, None, False, None)
        calls.append({"deterministic": deterministic})
        return softmax_attention(q, k, v, cu_seqlens_q)

    return flash_attn_varlen_func


def fake_varlen(calls: list[Call]) -> Callable[..., Tensor]:
    """Return a fake with the signature of torch 2.13's varlen_attn."""

    def varlen_attn(
        query,
        key,
        value,
        cu_seq_q,
        cu_seq_k,
        max_q,
        max_k,
        *,
        return_aux=None,
        scale=None,
        window_size=(-1, -1),
        enable_gqa=False,
        seqused_k=None,
        block_table=None,
        num_splits=None,
    ):
        check_packed(query, key, value, cu_seq_q, max_q)
        assert torch.equal(cu_seq_q, cu_seq_k)
        assert max_q == max_k
        assert window_size == (-1, 0)
        assert enable_gqa is (query.shape[1] != key.shape[1])
        assert (return_aux, scale, seqused_k, block_table, num_splits) == (None,) * 5
        calls.append({})
        return softmax_attention(query, key, value, cu_seq_q)

    return varlen_attn
