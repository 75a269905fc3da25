"""A full-size training step without its memory: torch's fake tensors, and the peak that torch's memory tracker reports.

What an engine at ZeRO 0 or 1 in bf16 allocates (docs/engine.md): working weights and gradients in bf16, float32 sums of
gradients, master weights and moments (divided by the ranks at stage 1); micro-batches forward and backward, then AdamW.
The model, its loss and its autograd graph are the product's; DeepSpeed itself does not run on fake tensors, so its
buckets are left out. The device is the CPU, with the plain kernels' blocks as large as on a GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from models.attention import Documents
from models.config import DecoderConfig
from models.decoder import Decoder
from models.execution import ExecutionSettings

WHOLE = 1 << 50
AS_ON_A_GPU = (("models.kernels.plain", "BLOCK_LOGITS"), ("models.losses.cross_entropy", "SCALED_AT_ONCE"))
"""Constants by which the CPU works in pieces that fit its cache, where a GPU takes all at once."""


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Let the plain kernels take everything at once."""
    before: list[tuple[Any, str, int]] = []
    for module, name in AS_ON_A_GPU:
        owner = import_module(module)
        before.append((owner, name, getattr(owner, name)))
        setattr(owner, name, WHOLE)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def empty_decoder(config: DecoderConfig, execution: ExecutionSettings) -> Decoder:
    """Return a decoder of bf16 tensors without memory."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("meta"):
            return Decoder(config, execution)
    finally:
        torch.set_default_dtype(before)


def fill(decoder: Decoder) -> None:
    """Replace the parameters by fake tensors on the CPU; call inside FakeTensorMode."""
    for module in decoder.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")))
    if decoder.config.tie_embeddings:
        decoder.head.weight = decoder.embedding.weight


def peak_bytes(
    config: DecoderConfig, execution: ExecutionSettings, micro_batch: int, accumulation: int, ranks: int
) -> dict[str, int]:
    """Return the peak bytes until the first loss and of the whole step; `ranks` share the optimizer's state."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker

    decoder, tracker, found = empty_decoder(config, execution), MemTracker(), {}

    def note(name: str) -> None:
        found[name] = int(tracker.get_tracker_snapshot("peak")[torch.device("cpu")]["Total"])

    with FakeTensorMode(), as_on_a_gpu(), tracker:
        fill(decoder)
        weights = list(decoder.parameters())
        sums = [torch.empty(weight.shape) for weight in weights]
        part = -(-config.parameter_count() // ranks)
        state: list[Tensor] = [torch.empty(part) for _ in ("master weights", "first moments", "second moments")]
        documents = Documents((config.max_seq_len,) * micro_batch, micro_batch)
        for _ in range(accumulation):
            ids_BS = torch.zeros(micro_batch, config.max_seq_len + 1, dtype=torch.int64)
            total = decoder(ids_BS, documents).total
            if "forward" not in found:
                note("forward")
            total.backward()
            for into, weight in zip(sums, weights, strict=True):
                assert weight.grad is not None
                into.add_(weight.grad)
                weight.grad.zero_()
            tracker.reset_mod_stats()  # of modules: the peak of the step stays
        note("step")
        assert all(len(one) == part for one in state)
    return found
