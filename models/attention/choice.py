"""Choose the attention backend: by name, or the fastest that can run."""

from __future__ import annotations

import torch

from models.attention import blocks, flash, flex, reference, sdpa, varlen
from models.attention.backend import HALF, Backend, Packed
from models.attention.documents import Documents

BACKENDS: dict[str, Backend] = {
    module.BACKEND.name: module.BACKEND for module in (flash, varlen, flex, blocks, sdpa, reference)
}
"""Every backend by name."""


def choose(name: str, head_size: int, dtype: torch.dtype, device: torch.device, *, gradients: bool = True) -> Backend:
    """Return the backend called `name`; for "auto" the fastest that can run.

    Raises ValueError for an unknown name, and for a head size, dtype, device or backward pass that the backend does
    not support; the message gives the value and a backend that supports it.
    """
    if name == "auto":
        name = _fastest(head_size, dtype, device, gradients)
    if name not in BACKENDS:
        raise ValueError(f"attention={name!r} is unknown: use auto or one of {', '.join(BACKENDS)}")
    refusal = BACKENDS[name].refusal(head_size, dtype, device, gradients)
    if refusal is not None:
        can = _fastest(head_size, dtype, device, gradients)
        raise ValueError(f"attention={name} {refusal}: use attention={can}, or auto")
    return BACKENDS[name]


def pack(
    documents: Documents,
    name: str,
    head_size: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    gradients: bool = True,
) -> Packed:
    """Choose a backend (`choose`) and lay out a batch's documents for it."""
    backend = choose(name, head_size, dtype, device, gradients=gradients)
    return Packed(backend, backend.layout(documents, device))


def _fastest(head_size: int, dtype: torch.dtype, device: torch.device, gradients: bool) -> str:
    """Return the first backend that can run, in order of speed on this device and dtype.

    The flash kernels support only 16-bit dtypes; for wider ones sdpa, unlike flex, needs no compilation.
    """
    if dtype not in HALF:
        order = ["sdpa"]
    elif device.type == "cuda":
        order = ["flash", "varlen", "flex", "sdpa"]
    else:
        order = ["blocks", "sdpa"]
    return next(name for name in order if not BACKENDS[name].refusal(head_size, dtype, device, gradients))
