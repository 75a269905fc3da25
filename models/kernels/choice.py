"""The interface of the fused functions, and which implementation runs.

Shapes: B sequences, T tokens, W width, F inner size, H query heads, K key heads, S head size, C tokens of a chunk, V
vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

Rotary = tuple[Tensor, Tensor]
"""cos and sin, float32, [T, S] or [B, T, S]."""


@dataclass(frozen=True)
class Kernels:
    """One implementation of each function. All compute in float32 inside and return the dtype of their input."""

    name: str
    rms_norm: Callable[[Tensor, Tensor, float], Tensor]
    """(x [..., W], weight [W], eps) -> [..., W]. Keeps x and 4 bytes a token for the backward pass."""
    rotate: Callable[[Tensor, Tensor, Rotary], tuple[Tensor, Tensor]]
    """(q [B, T, H, S], k [B, T, K, S], rotary) -> both turned; the inputs may be overwritten."""
    swiglu: Callable[[Tensor, Tensor], Tensor]
    """(gate [..., F], up [..., F]) -> silu(gate) * up. Keeps gate and up for the backward pass."""
    cross_entropy_: Callable[[Tensor, Tensor, Tensor, Tensor | None, float, bool], None]
    """(logits [C, V], labels [C], losses [C], squares [C] or None, z_loss, slopes) -> None.

    Writes -log p(label) into `losses` and, if `squares` is given, logsumexp^2 there, both float32 and 0 where the label
    is IGNORED. If `slopes`, logits become the gradient of the sum of losses + z_loss * squares; rows of ignored labels
    may hold anything finite. Else what becomes of the logits is undefined."""


def check(name: str, *, cuda: bool) -> None:
    """Raise ValueError, with the mend, when the kernels of this name cannot run on this machine."""
    if name != "liger":
        return
    if not cuda:
        raise ValueError(
            "execution.kernels=liger needs a CUDA device, and there is none: use execution.kernels=auto or plain"
        )
    if find_spec("liger_kernel") is None:
        raise ValueError(
            "execution.kernels=liger needs the package liger-kernel, which is not installed: "
            "pip install 'pdpc[gpu]', or use execution.kernels=auto or plain"
        )


@cache
def choose(name: str, device_type: str) -> Kernels:
    """Return the kernels of a name (execution.KERNELS) for a kind of device. Raises ValueError as `check` does."""
    cuda = device_type == "cuda"
    check(name, cuda=cuda)
    if name == "liger" or (name == "auto" and cuda and torch.version.cuda and find_spec("liger_kernel") is not None):
        from models.kernels import liger

        return liger.KERNELS
    from models.kernels import plain

    return plain.KERNELS
