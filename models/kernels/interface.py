"""The interface of the fused functions.

Shapes: B sequences, T tokens, W width, F inner size, H query heads, K key heads, S head size, C tokens per chunk, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

IGNORED = -100
"""Label of a position without a loss; the same value marks padding in samples."""

Rotary = tuple[Tensor, Tensor]
"""cos and sin, float32, [T, S] or [B, T, S]."""


@dataclass(frozen=True)
class Kernels:
    """One implementation of each function. All compute in float32 internally and return their input's dtype."""

    name: str
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    """(x [..., W], weight [W], eps) -> [..., W]. Keeps x and 4 bytes per token for the backward pass."""
    rotate: Callable[[Tensor, Tensor, Rotary], tuple[Tensor, Tensor]]
    """(q [B, T, H, S], k [B, T, K, S], rotary) -> both rotated; the inputs may be overwritten."""
    swiglu: Callable[[Tensor, Tensor], Tensor]
    """(gate [..., F], up [..., F]) -> silu(gate) * up. Keeps gate and up for the backward pass."""
    cross_entropy_: Callable[[Tensor, Tensor, Tensor, Tensor | None, float, bool], None]
    """(logits [C, V], labels [C], losses [C], squares [C] or None, z_loss, slopes) -> None.

    Writes -log p(label) to `losses` and, if given, logsumexp^2 to `squares`, both float32 and 0 where the label is
    IGNORED. If `slopes`, the logits are overwritten by the gradient of sum(losses + z_loss * squares); rows of ignored
    labels may hold any finite values. Otherwise the contents of the logits are undefined afterwards."""
