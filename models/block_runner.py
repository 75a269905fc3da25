"""How the stream goes through the blocks: eager or compiled, kept or recomputed.

Attention proper is never compiled with a block. It takes a call a document on the CPU, or a kernel that is opaque to
the compiler, and the documents' lengths change with every batch: a graph of it would be made again each time. Its
neighbours see shapes alone, so each of the two parts of a block is one graph, the same for all blocks.

Shapes: B sequences, T tokens, N = B * T, W width, H query heads, K key heads, S head size.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import NamedTuple, Protocol, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from models.execution import ExecutionSettings
from models.kernels import Kernels
from models.kernels.interface import Rotary

Triple = tuple[Tensor, Tensor, Tensor]


class TwoParts(Protocol):
    """A block: what comes before attention proper, and what comes after it."""

    def read(self, x_BTW: Tensor, rotary: Rotary, kernels: Kernels) -> Triple:
        """Return queries [N, H, S], keys and values [N, K, S]."""

    def write(self, x_BTW: Tensor, out_NHS: Tensor, kernels: Kernels) -> Tensor:
        """Return the stream after the block."""


class Parts(NamedTuple):
    """The parts as functions, eager or compiled."""

    read: Callable[[TwoParts, Tensor, Rotary, Kernels], Triple]
    write: Callable[[TwoParts, Tensor, Tensor, Kernels], Tensor]


def _read(block: TwoParts, x_BTW: Tensor, rotary: Rotary, kernels: Kernels) -> Triple:
    return block.read(x_BTW, rotary, kernels)


def _write(block: TwoParts, x_BTW: Tensor, out_NHS: Tensor, kernels: Kernels) -> Tensor:
    return block.write(x_BTW, out_NHS, kernels)


@cache
def parts(*, compiled: bool, backend: str = "inductor") -> Parts:
    """Return the parts of a block; compiled, each must be one whole graph or raises what breaks it."""
    if not compiled:
        return Parts(_read, _write)
    return Parts(
        torch.compile(_read, fullgraph=True, backend=backend), torch.compile(_write, fullgraph=True, backend=backend)
    )


class Passage:
    """One pass of a stream through blocks that share positions and documents."""

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

    def through(self, block: TwoParts, number: int, x_BTW: Tensor) -> Tensor:
        """Return the stream after block `number`, and keep of it for the backward pass what the settings say."""
        mode, every = self.execution.checkpointing, self.execution.checkpoint_every
        if not torch.is_grad_enabled() or mode == "none" or (mode == "every" and number % every):
            return self._whole(block, x_BTW)
        if mode == "selective":
            q, k, v = cast(Triple, _recomputed(self.parts.read, block, x_BTW, self.rotary, self.kernels))
            out_NHS = self.attend(q, k, v)
            return cast(Tensor, _recomputed(self.parts.write, block, x_BTW, out_NHS, self.kernels))
        return cast(Tensor, _recomputed(self._whole, block, x_BTW))

    def _whole(self, block: TwoParts, x_BTW: Tensor) -> Tensor:
        q, k, v = self.parts.read(block, x_BTW, self.rotary, self.kernels)
        return self.parts.write(block, x_BTW, self.attend(q, k, v), self.kernels)


def _recomputed(function: Callable[..., object], *args: object) -> object:
    # Nothing is drawn at random in a block, so there is no generator's state to keep.
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=False)
