"""How far two results are apart, and the bounds that the check applies."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

LARGEST = {torch.bfloat16: 2e-2, torch.float32: 1e-5}
"""Bound on the largest difference, as a share of the largest value: as in the tests on the CPU (docs/attention.md)."""
FP32_ON_GPU = 1e-4
"""The same in float32 on a GPU, whose sums have another order."""


def bound_of(dtype: torch.dtype, device: torch.device) -> float:
    """Return the bound on `largest`."""
    return FP32_ON_GPU if device.type == "cuda" and dtype == torch.float32 else LARGEST[dtype]


def largest(found: Tensor, expected: Tensor) -> float:
    """Return the largest difference as a share of the largest expected value."""
    exact = expected.detach().double()
    return float((found.detach().double() - exact).abs().max() / exact.abs().max().clamp(min=1e-30))


def apart(found: Iterable[Tensor], expected: Iterable[Tensor]) -> float:
    """Return the norm of the difference of two lists of tensors, as a share of the norm of the expected ones."""
    off, whole = 0.0, 0.0
    for one, other in zip(found, expected, strict=True):
        exact = other.detach().double()
        off += float((one.detach().double() - exact).square().sum())
        whole += float(exact.square().sum())
    return float((off / max(whole, 1e-30)) ** 0.5)
