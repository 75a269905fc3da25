"""torch's own variable-length flash kernel, torch.nn.attention.varlen: needs no package besides torch.

Its backward follows torch.use_deterministic_algorithms.
"""

from __future__ import annotations

import inspect

from torch import Tensor

from models.attention.backend import HALF, Backend
from models.attention.flash import Bounds, layout

CAUSAL = (-1, 0)
"""Attention window: unlimited to the left, nothing to the right."""


def attend(q_NHS: Tensor, k_NKS: Tensor, v_NKS: Tensor, bounds: Bounds) -> Tensor:
    """Attend in a single kernel."""
    from torch.nn.attention.varlen import varlen_attn

    out = varlen_attn(
        q_NHS,
        k_NKS,
        v_NKS,
        cu_seq_q=bounds.starts_E,
        cu_seq_k=bounds.starts_E,
        max_q=bounds.longest,
        max_k=bounds.longest,
        window_size=CAUSAL,
        enable_gqa=q_NHS.shape[1] != k_NKS.shape[1],
    )
    assert isinstance(out, Tensor)
    return out


def missing() -> str | None:
    """Return a message if this torch's varlen_attn lacks the arguments used here; older versions take no window."""
    import torch

    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        known: set[str] = set()
    else:
        known = set(inspect.signature(varlen_attn).parameters)
    if {"window_size", "enable_gqa"} <= known:
        return None
    return f"needs a torch whose varlen_attn takes window_size and enable_gqa, not torch {torch.__version__}"


BACKEND = Backend(
    "varlen",
    layout,
    attend,
    devices=("cuda",),
    trains_on=("cuda",),
    fast_on=("cuda",),
    dtypes=HALF,
    head_multiple=8,
    largest_head=256,
    missing=missing,
)
