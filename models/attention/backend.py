"""The interface of an attention backend: two functions and their capabilities.

Shapes: N tokens, H query heads, K key/value heads (K divides H), S head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.attention.documents import Documents

HALF = (torch.bfloat16, torch.float16)
ANY_FLOAT = (*HALF, torch.float32, torch.float64)


Attend = Callable[[Tensor, Tensor, Tensor, Any], Tensor]
"""(q_NHS, k_NKS, v_NKS, layout) -> [N, H, S]: a token attends to its document up to itself; scores times S^-0.5."""


def _nothing_missing() -> str | None:
    return None


@dataclass(frozen=True)
class Backend:
    """One implementation of causal attention within documents."""

    name: str
    layout: Callable[[Documents, torch.device], Any]
    """Prepares a batch's documents for `attend`: called once per batch, the result is used by every layer."""
    attend: Attend
    """Computes attention."""
    devices: tuple[str, ...] = ("cpu", "cuda")
    """Device types it runs on."""
    trains_on: tuple[str, ...] = ("cpu", "cuda")
    """Device types on which it has a backward pass."""
    fast_on: tuple[str, ...] = ()
    """Device types on which `auto` chooses it for 16-bit dtypes; empty for a baseline."""
    dtypes: tuple[torch.dtype, ...] = ANY_FLOAT
    head_multiple: int = 1
    """The head size must be a multiple of this."""
    largest_head: int | None = None
    """Largest head size."""
    missing: Callable[[], str | None] = _nothing_missing
    """Returns what is not installed or cannot be imported, None if nothing is missing."""

    def refusal(self, head_size: int, dtype: torch.dtype, device: torch.device, gradients: bool) -> str | None:
        """Return why this backend cannot run, None if it can."""
        if device.type not in self.devices:
            return f"runs only on {' and '.join(self.devices)}, not on {device.type}"
        if gradients and device.type not in self.trains_on:
            return f"has no backward pass on {device.type}"
        if dtype not in self.dtypes:
            return f"cannot compute in {str(dtype).removeprefix('torch.')}"
        if head_size % self.head_multiple or head_size > (self.largest_head or head_size):
            largest = f" of at most {self.largest_head}" if self.largest_head else ""
            return f"needs a head size that is a multiple of {self.head_multiple}{largest}, not {head_size}"
        return self.missing()


@dataclass(frozen=True, eq=False)
class Packed:
    """A batch's documents laid out for a backend, shared by all layers of a decoder."""

    backend: Backend
    layout: Any

    def attend(self, q_NHS: Tensor, k_NKS: Tensor, v_NKS: Tensor) -> Tensor:
        """Return the attention output, [N, H, S]; every token attends to its own document up to itself."""
        return self.backend.attend(q_NHS, k_NKS, v_NKS, self.layout)
