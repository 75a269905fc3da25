"""Choose the attention backend: by name, or the fastest that can run."""

from __future__ import annotations

from importlib import import_module
from itertools import takewhile

import torch

from models.attention import shared
from models.attention.backend import HALF, Backend, Packed
from models.attention.documents import Documents
from models.config import ATTENTION_BACKENDS

BACKENDS: dict[str, Backend] = {name: import_module(f"models.attention.{name}").BACKEND for name in ATTENTION_BACKENDS}
"""Every backend by name."""

EVERYWHERE = "sdpa"
"""The backend that can do everything and compiles nothing: what `auto` takes where no faster one can."""


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


def passed_over(head_size: int, dtype: torch.dtype, device: torch.device, *, gradients: bool = True) -> dict[str, str]:
    """Return why each backend that `auto` prefers to the one it takes cannot run, by name."""
    taken = _fastest(head_size, dtype, device, gradients)
    fast = takewhile(lambda name: name != taken, _fast(dtype, device))
    return {name: str(BACKENDS[name].refusal(head_size, dtype, device, gradients)) for name in fast}


def pack(
    documents: Documents,
    name: str,
    head_size: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    gradients: bool = True,
) -> Packed:
    """Choose a backend (`choose`) and lay out a batch's documents for it; shared prompts have one of their own."""
    if isinstance(documents, shared.SharedPrompts):
        return Packed(shared.BACKEND, shared.layout(documents, device))
    backend = choose(name, head_size, dtype, device, gradients=gradients)
    return Packed(backend, backend.layout(documents, device))


def _fast(dtype: torch.dtype, device: torch.device) -> list[str]:
    """Return the backends that are fast on the device, in the order of preference: only in 16 bits."""
    return [name for name, backend in BACKENDS.items() if dtype in HALF and device.type in backend.fast_on]


def _fastest(head_size: int, dtype: torch.dtype, device: torch.device, gradients: bool) -> str:
    """Return the first fast backend that can run; else `EVERYWHERE`."""
    able = (n for n in _fast(dtype, device) if not BACKENDS[n].refusal(head_size, dtype, device, gradients))
    return next(able, EVERYWHERE)
