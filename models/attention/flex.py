"""torch's FlexAttention, compiled, with a causal document mask (Dong et al., arXiv 2412.05496).

On the CPU it has no backward pass and recompiles for every shape, because torch 2.13 generates C++ that does not
compile with dynamic sizes. New documents in the same shape do not recompile.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from models.attention.backend import ANY_FLOAT, Backend
from models.attention.documents import Documents, on_device
from models.compiled_code import check_cache


class Mask(NamedTuple):
    """A block mask over the rows of a batch."""

    rows: int
    blocks: Any
    """torch's BlockMask, [B, 1, T, T] in blocks."""


def layout(documents: Documents, device: torch.device) -> Mask:
    """Return the block mask; building it takes T^2 * B temporary booleans."""
    from torch.nn.attention.flex_attention import create_block_mask

    rows, tokens = documents.rows, documents.tokens // documents.rows
    document_BT = on_device(documents.numbers().view(rows, tokens), device)

    def allowed(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (document_BT[row, query] == document_BT[row, key])

    return Mask(rows, create_block_mask(allowed, rows, None, tokens, tokens, device=device.type))


def attend(q_NHS: Tensor, k_NKS: Tensor, v_NKS: Tensor, mask: Mask) -> Tensor:
    """Attend in a single compiled kernel."""
    q, k, v = (x.unflatten(0, (mask.rows, -1)).transpose(1, 2) for x in (q_NHS, k_NKS, v_NKS))
    out = _compiled(q_NHS.is_cuda)(q, k, v, block_mask=mask.blocks, enable_gqa=q_NHS.shape[1] != k_NKS.shape[1])
    return out.transpose(1, 2).flatten(0, 1)


@cache
def _compiled(any_size: bool) -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    check_cache()
    compiled: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=None if any_size else False)
    return compiled


BACKEND = Backend("flex", layout, attend, trains_on=("cuda",), fast_on=("cuda",), dtypes=ANY_FLOAT[:3])
