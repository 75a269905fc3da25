"""Run the stream through the blocks: eager or compiled, activations kept or recomputed.

Attention itself is never compiled with its block. It is one call per document on the CPU, or a kernel that is opaque to
the compiler, and document lengths change with every batch, so its graph would be recompiled each time. The parts around
it depend only on shapes, so each of the two parts of a block is one graph, shared by all blocks.

Shapes: B sequences, T tokens, N = B * T, W width, H query heads, K key heads, S head size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.compiled_code import check_cache
from models.execution import ExecutionSettings
from models.kernels import Kernels
from models.kernels.interface import Rotary

Triple = tuple[Tensor, Tensor, Tensor]


class TwoParts(Protocol):
    """A block split into the part before attention and the part after it."""

    def qkv(self, x_BTW: Tensor, rotary: Rotary, kernels: Kernels) -> Triple:
        """Return queries [N, H, S], keys and values [N, K, S]."""

    def finish(self, x_BTW: Tensor, out_NHS: Tensor, kernels: Kernels) -> Tensor:
        """Return the stream after the block."""


class Parts(NamedTuple):
    """The two parts as functions, eager or compiled."""

    qkv: Callable[[TwoParts, Tensor, Rotary, Kernels], Triple]
    finish: Callable[[TwoParts, Tensor, Tensor, Kernels], Tensor]


def _qkv(block: TwoParts, x_BTW: Tensor, rotary: Rotary, kernels: Kernels) -> Triple:
    return block.qkv(x_BTW, rotary, kernels)


def _finish(block: TwoParts, x_BTW: Tensor, out_NHS: Tensor, kernels: Kernels) -> Tensor:
    return block.finish(x_BTW, out_NHS, kernels)


@cache
def parts(*, compiled: bool, backend: str = "inductor") -> Parts:
    """Return the parts of a block; a compiled part must be a single graph, and torch raises on a graph break."""
    if not compiled:
        return Parts(_qkv, _finish)
    check_cache()
    return Parts(
        torch.compile(_qkv, fullgraph=True, backend=backend), torch.compile(_finish, fullgraph=True, backend=backend)
    )


class BlockRunner:
    """Runs one forward pass through blocks that share positions and documents."""

    def __init__(
        self,
        execution: ExecutionSettings,
        kernels: Kernels,
        rotary: Rotary,
        attend: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> None:
        self.execution = execution
        self.kernels = kernels
        self.rotary = rotary
        self.attend = attend
        self.parts = parts(compiled=execution.compile)

    def run(self, block: TwoParts, number: int, x_BTW: Tensor) -> Tensor:
        """Return the stream after block `number`; the settings decide what is kept for the backward pass."""
        mode, every = self.execution.checkpointing, self.execution.checkpoint_every
        if not torch.is_grad_enabled() or mode == "none" or (mode == "every" and number % every):
            return self._whole(block, x_BTW)
        if mode == "selective":
            q, k, v = cast(Triple, _recomputed(self.parts.qkv, block, x_BTW, self.rotary, self.kernels))
            out_NHS = self.attend(q, k, v)
            return cast(Tensor, _recomputed(self.parts.finish, block, x_BTW, out_NHS, self.kernels))
        return cast(Tensor, _recomputed(self._whole, block, x_BTW))

    def _whole(self, block: TwoParts, x_BTW: Tensor) -> Tensor:
        q, k, v = self.parts.qkv(block, x_BTW, self.rotary, self.kernels)
        return self.parts.finish(block, x_BTW, self.attend(q, k, v), self.kernels)


def _recomputed(function: Callable[..., object], *args: object) -> object:
    # Blocks use no random numbers, so there is no RNG state to preserve.
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
