"""A decoder to evaluate at ZeRO 3, where every rank holds a part of each parameter.

All parameters are gathered once for the whole evaluation or, where they do not fit, those of one block at a time in
every forward pass, as in training. The decoder is a second module without DeepSpeed's hooks: those expect the calls of
a training step, in the same order on every rank.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from models.attention import Documents
from models.block_runner import BlockRunner
from models.decoder import Block, Decoder
from models.lora import adapted
from train.distributed.collectives import Collectives
from train.distributed.out_of_memory import OutOfMemory
from train.distributed.world import World
from train.memory.available import can_allocate
from train.memory.footprint import one_block, size_of

log = logging.getLogger(__name__)


class WeightsDoNotFit(OutOfMemory):
    """Not even the weights of one block fit on every rank; raised on all of them."""


@contextmanager
def gathered(partitioned: Decoder, world: World, spare_bytes: int, *, at_once: bool) -> Iterator[Decoder]:
    """Yield a decoder with the weights of `partitioned`. Every rank enters, and leaves when all have finished.

    Its parameters are gathered `at_once` if they fit next to `spare_bytes`, else block by block (BlockwiseDecoder).
    Raises WeightsDoNotFit on all ranks.
    """
    import deepspeed

    config, element = partitioned.config, next(partitioned.parameters()).element_size()
    whole, least = element * config.parameter_count(), element * one_block(config)
    if at_once and not _all_fit(whole + spare_bytes, world):
        at_once = False
        if world.first:
            reason = f"all weights need {size_of(whole)}, and a batch about {size_of(spare_bytes)}: more than is free"
            log.warning("the evaluation gathers the weights of one block at a time: %s", reason)
    if not at_once and not _all_fit(least, world):
        raise WeightsDoNotFit("the weights of an evaluation", f"those of one block need {size_of(least)}")
    blocks = set(partitioned.layers.parameters())
    kept = {name: p for name, p in partitioned.state_dict(keep_vars=True).items() if at_once or p not in blocks}
    with deepspeed.zero.GatheredParameters(list(kept.values())):
        with torch.device("meta"):
            decoder = (Decoder if at_once else BlockwiseDecoder)(config, partitioned.execution)
            if partitioned.lora is not None:
                adapted(decoder, partitioned.lora, None)
        decoder.load_state_dict({name: p.data for name, p in kept.items()}, assign=True, strict=at_once)
        if config.tie_embeddings:
            decoder.head.weight = decoder.embedding.weight
        if isinstance(decoder, BlockwiseDecoder):
            decoder.read_blocks(partitioned.layers, world)
        yield decoder.train(partitioned.training)


def _all_fit(size: int, world: World) -> bool:
    return world.agree(can_allocate(size, world.device, world.local_size))


class BlockwiseDecoder(Decoder):
    """A decoder whose own blocks stay empty: a forward pass gathers one block at a time from a partitioned decoder.

    Every rank makes the same number of forward passes. A rank that fails in one still gathers the remaining blocks
    with the others, who learn of it at the next collective (Collectives.gather) or at the start of the next pass.
    """

    _sources: tuple[nn.Module, ...]
    _exchange: Collectives
    _next = 0
    """Block that this rank gathers next."""

    def read_blocks(self, blocks: nn.ModuleList, world: World) -> None:
        """Gather the blocks of forward passes from `blocks`, which are partitioned over the ranks."""
        self._sources = tuple(blocks)  # a tuple: they are not submodules
        self._exchange = Collectives(world)

    def hidden(self, ids_BT: Tensor, documents: Documents | None = None, positions_BT: Tensor | None = None) -> Tensor:
        """Return the last hidden states as `Decoder.hidden` does. Raises RankFailed if another rank has failed."""
        self._exchange.gather("a forward pass")
        self._next = 0
        try:
            return super().hidden(ids_BT, documents, positions_BT)
        finally:
            while self._next < len(self._sources):
                with self._block():
                    pass

    def run_blocks(self, runner: BlockRunner, x_BTW: Tensor) -> Tensor:
        """Return the stream after the last block."""
        while self._next < len(self._sources):
            number = self._next
            with self._block() as block:
                x_BTW = block(x_BTW, number=number, runner=runner)
        return x_BTW

    @contextmanager
    def _block(self) -> Iterator[Block]:
        """Yield the next block with its weights."""
        import deepspeed

        inference = torch.is_inference_mode_enabled()
        source, block = self._sources[self._next], cast(Block, self.layers[self._next])
        self._next += 1
        # Gathered in inference mode, weights could not be trained on afterwards.
        with torch.inference_mode(False), torch.no_grad(), deepspeed.zero.GatheredParameters(list(source.parameters())):
            weights = {name: p.data for name, p in source.state_dict(keep_vars=True).items()}
            block.load_state_dict(weights, assign=True)
            try:
                with torch.inference_mode(inference):
                    yield block
            finally:
                block.to_empty(device="meta")
