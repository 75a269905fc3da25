"""Plain softmax attention with an explicit mask, in float32: the reference for the other backends' tests."""

from __future__ import annotations

import torch
from torch import Tensor

from models.attention.backend import Backend
from models.attention.documents import Documents


def layout(documents: Documents, device: torch.device) -> Tensor:
    """Return the mask, bool [N, N]: True where a token may attend to another."""
    document_N = documents.numbers().to(device)
    position_N = torch.arange(len(document_N), device=device)
    return (document_N[:, None] == document_N[None, :]) & (position_N[:, None] >= position_N[None, :])


def attend(q_NHS: Tensor, k_NKS: Tensor, v_NKS: Tensor, allowed_NN: Tensor) -> Tensor:
    """Attend by definition, in O(N^2 * H) time and memory."""
    exact = torch.promote_types(q_NHS.dtype, torch.float32)
    repeats = q_NHS.shape[1] // k_NKS.shape[1]
    k_NHS, v_NHS = (x.to(exact).repeat_interleave(repeats, dim=1) for x in (k_NKS, v_NKS))
    scores_HNN = torch.einsum("nhs,mhs->hnm", q_NHS.to(exact), k_NHS) * q_NHS.shape[-1] ** -0.5
    weights_HNN = scores_HNN.masked_fill(~allowed_NN, float("-inf")).softmax(dim=-1)
    return torch.einsum("hnm,mhs->nhs", weights_HNN, v_NHS).to(q_NHS.dtype)


BACKEND = Backend("reference", layout, attend)
