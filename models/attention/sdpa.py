"""torch's scaled_dot_product_attention, one call per document; adjacent documents of equal length share a call.

This is cheaper than one masked call over the pack, and nothing can leak because documents are never in one sequence.
"""

from __future__ import annotations

from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from models.attention.backend import Backend
from models.attention.documents import Documents

Run = tuple[int, int]
"""Count and length of adjacent documents of equal length."""


def layout(documents: Documents, device: torch.device) -> tuple[Run, ...]:
    """Return the runs of documents of equal length."""
    return tuple((len(list(group)), length) for length, group in groupby(documents.lengths))


def attend(q_NHS: Tensor, k_NKS: Tensor, v_NKS: Tensor, runs: tuple[Run, ...]) -> Tensor:
    """Attend run by run."""
    grouped = q_NHS.shape[1] != k_NKS.shape[1]
    sizes = [number * length for number, length in runs]
    outs = []
    for (number, length), *parts in zip(runs, *(x.split(sizes) for x in (q_NHS, k_NKS, v_NKS)), strict=True):
        q, k, v = (x.unflatten(0, (number, length)).transpose(1, 2) for x in parts)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=grouped)
        outs.append(out.transpose(1, 2).flatten(0, 1))
    return outs[0] if len(outs) == 1 else torch.cat(outs)


BACKEND = Backend("sdpa", layout, attend)
