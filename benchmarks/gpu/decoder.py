"""The whole decoder in bf16, in every way it can run, compared with float32 on `reference` attention and plain kernels.

A way passes if its loss and gradients are no further from float32 than twice what plain bf16 on `reference` is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.attention import REFERENCE, refuse
from benchmarks.gpu.check import Check, Row
from benchmarks.gpu.closeness import apart
from benchmarks.gpu.kernels import kernels_of
from models.attention import BACKENDS, Documents
from models.config import DecoderConfig
from models.decoder import build
from models.execution import ExecutionSettings

CONFIG = DecoderConfig(
    vocab_size=512, layers=2, width=128, heads=2, kv_heads=1, ffn=352, max_seq_len=128, end_of_text=0, z_loss=1e-4
)
ROWS, SLACK, FACTOR = 2, 1e-3, 2.0
PLAIN = ExecutionSettings(kernels="plain")
WAYS: dict[str, tuple[str, ExecutionSettings]] = {
    **{f"attention {name}": (name, PLAIN) for name in BACKENDS if name != REFERENCE},
    "liger": ("auto", ExecutionSettings(kernels="liger")),
    "compiled": ("auto", replace(PLAIN, compile=True)),
    "compiled, liger": ("auto", ExecutionSettings(kernels="liger", compile=True)),
    "recomputed, selective": ("auto", replace(PLAIN, checkpointing="selective")),
    "recomputed, every": ("auto", replace(PLAIN, checkpointing="every")),
    "recomputed, full": ("auto", replace(PLAIN, checkpointing="full")),
    "recomputed, selective, liger": ("auto", ExecutionSettings(kernels="liger", checkpointing="selective")),
    "recomputed, selective, compiled": ("auto", replace(PLAIN, checkpointing="selective", compile=True)),
}


def checks(settings: Mapping[str, Any]) -> dict[str, Check]:
    """Return the checks by name; compilation on the CPU takes minutes, and is left out of a dry run."""
    device = torch.device(settings["device"])
    ways = {name: way for name, way in WAYS.items() if settings["compile"] or not way[1].compile}
    return {f"decoder, {name}": partial(_way, name, device) for name in ways}


def _way(name: str, device: torch.device) -> Row:
    attention, execution = WAYS[name]
    if attention != "auto":
        refuse(attention, CONFIG.head_size, torch.bfloat16, device)
    kernels_of(execution.kernels, device)
    exact = passes(REFERENCE, PLAIN, torch.float32, device)
    plain = apart(passes(REFERENCE, PLAIN, torch.bfloat16, device), exact)
    found = passes(attention, execution, torch.bfloat16, device)
    row: Row = {"error": apart(found, exact), "bound": FACTOR * plain + SLACK, "bf16_on_reference": plain}
    if execution.checkpointing != "none" and not execution.compile:
        kept = passes(attention, replace(execution, checkpointing="none"), torch.bfloat16, device)
        row["same_bits_as_kept"] = all(torch.equal(a, b) for a, b in zip(found, kept, strict=True))
    return row


@cache
def passes(attention: str, execution: ExecutionSettings, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Return the mean loss and the gradient of every weight. The weights are bf16 values in either dtype."""
    generator = torch.Generator().manual_seed(1)
    ids_BS = torch.randint(CONFIG.vocab_size, (ROWS, CONFIG.max_seq_len + 1), generator=generator)
    ids_BS[torch.rand(ids_BS.shape, generator=generator) < 1 / 32] = 0  # documents of 32 tokens on average
    documents = Documents.of(ids_BS[:, :-1], CONFIG.end_of_text)
    decoder = build(replace(CONFIG, attention=attention), 0, execution).bfloat16().to(device, dtype)
    loss = decoder(ids_BS.to(device), documents).total / ids_BS[:, 1:].numel()
    loss.backward()
    gradients = [p.grad for p in decoder.parameters() if p.grad is not None]
    scale = torch.cat([g.detach().flatten().float() for g in gradients]).norm()  # the loss weighs as much as they do
    return [loss.detach().float() * scale, *gradients]
