"""Liger's Triton kernels (liger-kernel 0.8, arXiv 2410.10989) behind our interface. CUDA only.

The linear cross-entropy is our loop over chunks (models/losses/cross_entropy.py) around Liger's cross-entropy kernel.
Liger's own fused function returns per-token losses only with reduction="none", and then multiplies hidden states and
head again in the backward pass (4/3 of the work), adds the z-loss to the losses, and syncs with the host to count.
"""

from __future__ import annotations

import torch
from liger_kernel.ops import LigerRMSNormFunction, LigerRopeFunction, LigerSiLUMulFunction
from liger_kernel.ops.cross_entropy import MAX_FUSED_SIZE, liger_cross_entropy_kernel
from torch import Tensor

from models.kernels.interface import IGNORED, Kernels, Rotary


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight; "gemma" is Liger's mode for float32 throughout, as in plain.py."""
    return LigerRMSNormFunction.apply(x, weight, eps, 0.0, "gemma")


def rotate(q_BTHS: Tensor, k_BTKS: Tensor, rotary: Rotary) -> tuple[Tensor, Tensor]:
    """Return queries and keys rotated by their positions, in place; Liger takes them as [B, H, T, S]."""
    q, k = LigerRopeFunction.apply(q_BTHS.transpose(1, 2), k_BTKS.transpose(1, 2), *rotary)
    return q.transpose(1, 2), k.transpose(1, 2)


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up; the backward pass overwrites gate and up with their gradients."""
    return LigerSiLUMulFunction.apply(gate, up)


def cross_entropy_(
    logits_CV: Tensor, labels_C: Tensor, losses_C: Tensor, squares_C: Tensor | None, z_loss: float, slopes: bool
) -> None:
    """Write losses, and overwrite logits with gradients: see Kernels.cross_entropy_."""
    assert logits_CV.is_contiguous()
    assert labels_C.is_contiguous()
    chunk, vocabulary = logits_CV.shape
    block = min(MAX_FUSED_SIZE, 1 << (vocabulary - 1).bit_length())
    weighted_C = torch.zeros_like(losses_C) if squares_C is not None else None
    liger_cross_entropy_kernel[(chunk,)](
        X_ptr=logits_CV,
        X_stride=logits_CV.stride(0),
        Y_ptr=labels_C,
        Y_stride=1,
        weight_ptr=None,
        loss_ptr=losses_C,
        z_loss_ptr=weighted_C,
        loss_stride=1,
        token_accuracy_ptr=None,
        token_accuracy_stride=0,
        predicted_tokens_ptr=None,
        predicted_tokens_stride=0,
        n_cols=vocabulary,
        n_non_ignore=1,  # used only for means
        sum_non_ignore_weight=1,
        weight_sum=0.0,
        ignore_index=IGNORED,
        lse_square_scale=z_loss,
        label_smoothing=0.0,
        reduction="sum",
        softcap=None,
        RETURN_Z_LOSS=weighted_C is not None,
        RETURN_TOKEN_ACCURACY=False,
        RETURN_PREDICTED_TOKENS=False,
        BLOCK_SIZE=block,
        HAS_WEIGHT=False,
        HAS_SOFTCAPPING=False,
        HAS_GRADIENTS=slopes,
        num_warps=32 if torch.version.hip is None else 16,
    )
    if squares_C is not None and weighted_C is not None:
        losses_C.sub_(weighted_C)  # the kernel adds it
        torch.div(weighted_C, z_loss, out=squares_C)


KERNELS = Kernels("liger", rms_norm, rotate, swiglu, cross_entropy_)
