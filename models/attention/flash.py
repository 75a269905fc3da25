"""flash-attn 2's variable-length kernel (Dao, arXiv 2307.08691): A100, A800 and later, fp16 and bf16.

Written for flash-attn 2.8.3. Its backward sums in a nondeterministic order unless torch.use_deterministic_algorithms is
set, which costs time and memory.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from models.attention.backend import HALF, Backend
from models.attention.documents import Documents, on_device
from models.optional import import_problem


class Bounds(NamedTuple):
    """Document boundaries in the form that flash kernels take."""

    starts_E: Tensor
    """int32 [D + 1] on the device."""
    longest: int


def layout(documents: Documents, device: torch.device) -> Bounds:
    """Return the bounds on the device."""
    return Bounds(on_device(documents.bounds(), device), documents.longest)


def attend(q_NHS: Tensor, k_NKS: Tensor, v_NKS: Tensor, bounds: Bounds) -> Tensor:
    """Attend in a single kernel."""
    from flash_attn import flash_attn_varlen_func

    out: Tensor = flash_attn_varlen_func(
        q_NHS,
        k_NKS,
        v_NKS,
        cu_seqlens_q=bounds.starts_E,
        cu_seqlens_k=bounds.starts_E,
        max_seqlen_q=bounds.longest,
        max_seqlen_k=bounds.longest,
        causal=True,
        deterministic=torch.are_deterministic_algorithms_enabled(),
    )
    return out


def missing() -> str | None:
    """Return a message if flash-attn is not installed, or its build does not fit this torch."""
    return import_problem("flash-attn", "flash_attn")


BACKEND = Backend(
    "flash",
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
