"""Seconds of a step on one GPU: seven numbers, fitted to published rows, times what a step computes and moves.

    matrix products   6 FLOPs per parameter and token, at peak * matmul * W / (W + matmul_width)
    attention         6 * layers * query width * T FLOPs per token (causal), at peak * attention
    between them      pointwise * layers * activation bytes per token, at the memory's bandwidth
    loss              loss * 2 * vocabulary bytes per token, at the memory's bandwidth
    optimizer         32 bytes per parameter that the rank updates, at the memory's bandwidth
    links             what ZeRO moves between ranks, at links * NVLink; across nodes also, times log2(nodes), at
                      nodes * the network's share of a GPU

The fit, its rows and its errors on rows kept out of it: `speed.json`, written by `python -m benchmarks.estimate_speed`.
A forward pass is a third of the products, of what lies between them and of the loss, and two sevenths of attention.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from launch.estimate.hardware import Accelerators
from models.config import DecoderConfig

FITTED = Path(__file__).with_name("speed.json")
OPTIMIZER_BYTES = 32
"""Read and written per updated parameter: gradient, master weight, two moments, and the working weight."""
ATTENTION_FORWARD = 2 / 7
"""A flash kernel's share of the forward pass: two of seven products."""


@dataclass(frozen=True)
class Coefficients:
    """The fitted numbers."""

    matmul: float
    """Largest share of the peak that matrix products reach, at infinite width."""
    matmul_width: float
    """Width at which they reach half of it."""
    attention: float
    """Share of the peak that attention reaches, in causal FLOPs."""
    pointwise: float
    """How often the activations of a block pass through memory."""
    loss: float
    """How often logits in bf16 pass through memory."""
    links: float
    """Share of NVLink at which communication that nothing hides is as slow as the actual one."""
    nodes: float
    """The same for the network between nodes; above 1, most of it is hidden."""


@dataclass(frozen=True)
class Work:
    """What a rank computes per token."""

    products: int
    """Parameters in the matrix products of the blocks."""
    parameters: int
    layers: int
    width: int
    query_width: int
    key_width: int
    ffn: int
    """Inner size of the feed-forward network; `gated`: it multiplies two of them."""
    gated: bool
    vocabulary: int
    seq_len: int

    @classmethod
    def of(cls, decoder: DecoderConfig, seq_len: int) -> Work:
        """Return the work of our decoder."""
        counts = decoder.parameters()
        return cls(
            products=counts.attention + counts.ffn,
            parameters=counts.total,
            layers=decoder.layers,
            width=decoder.width,
            query_width=decoder.heads * decoder.head_size,
            key_width=decoder.kv_heads * decoder.head_size,
            ffn=decoder.ffn,
            gated=True,
            vocabulary=decoder.vocab_size,
            seq_len=seq_len,
        )

    @property
    def activation_bytes(self) -> int:
        """Bytes per token and block that pass between its products, in bf16."""
        return 2 * (4 * self.width + 2 * self.query_width + 2 * self.key_width + 3 * self.ffn)


@dataclass(frozen=True)
class Traffic:
    """Bytes per parameter that a rank sends to the others, per step and per micro-batch."""

    step: float = 0.0
    micro_batch: float = 0.0

    @classmethod
    def of(cls, stage: int, *, gradient_bytes: int, element_bytes: int) -> Traffic:
        """Return what a ZeRO stage moves: gradients reduced, weights gathered (an all-reduce is both)."""
        if stage == 3:
            return cls(micro_batch=2 * element_bytes + gradient_bytes)
        if stage == 2:
            return cls(step=element_bytes, micro_batch=gradient_bytes)
        return cls(step=2 * gradient_bytes + (element_bytes if stage == 1 else 0))


@dataclass(frozen=True)
class Seconds:
    """Seconds of one step of a rank, by purpose."""

    products: float
    attention: float
    pointwise: float
    loss: float
    links: float
    optimizer: float

    @property
    def total(self) -> float:
        """All of the step."""
        return sum(getattr(self, item.name) for item in fields(self))


def step_seconds(
    work: Work,
    hardware: Accelerators,
    fitted: Coefficients,
    *,
    micro_batch_tokens: float,
    accumulation: int = 1,
    traffic: Traffic = Traffic(),  # frozen
    recomputed: float = 0.0,
    updated: float | None = None,
    peak_share: float = 1.0,
) -> Seconds:
    """Return the seconds of a training step of `accumulation` micro-batches.

    `recomputed`: share of the blocks whose forward pass runs again in the backward pass. `updated`: parameters whose
    AdamW state this rank holds. `peak_share`: peak of the precision over that of bf16.
    """
    peak, memory = hardware.peak_tflops * 1e12 * peak_share, hardware.bandwidth_gb_s * 1e9
    tokens, slower = micro_batch_tokens * accumulation, 1 / hardware.relative_speed
    blocks = work.products * (1 + recomputed / 3)
    head = work.vocabulary * work.width
    rate = peak * fitted.matmul * work.width / (work.width + fitted.matmul_width)
    attention = 6 * work.layers * work.query_width * work.seq_len * (1 + recomputed * ATTENTION_FORWARD)
    moved = work.parameters * (traffic.step + traffic.micro_batch * accumulation) if hardware.devices > 1 else 0.0
    links_s = moved / (fitted.links * hardware.link_gb_s * 1e9) if hardware.gpus_per_node > 1 else 0.0
    if hardware.nodes > 1:
        links_s += moved * math.log2(hardware.nodes) / (fitted.nodes * hardware.network_gbit_s / 8 * 1e9)
    between = work.layers * work.activation_bytes * (1 + recomputed / 3)
    return Seconds(
        products=slower * 6 * (blocks + head) * tokens / rate,
        attention=slower * attention * tokens / (peak * fitted.attention),
        pointwise=slower * fitted.pointwise * between * tokens / memory,
        loss=slower * fitted.loss * 2 * work.vocabulary * tokens / memory,
        links=slower * links_s,
        optimizer=slower * OPTIMIZER_BYTES * (work.parameters if updated is None else updated) / memory,
    )


def forward_seconds_per_token(work: Work, hardware: Accelerators, fitted: Coefficients) -> float:
    """Return the seconds per token and GPU of a forward pass with a loss, as scoring and evaluation run it."""
    of = step_seconds(work, hardware, fitted, micro_batch_tokens=1.0, updated=0.0)
    return (of.products + of.pointwise + of.loss) / 3 + of.attention * ATTENTION_FORWARD


@cache
def fitted_file() -> dict[str, Any]:
    """Return the contents of `speed.json`: coefficients, origin and errors."""
    found: dict[str, Any] = json.loads(FITTED.read_text("utf-8"))
    return found


def coefficients() -> Coefficients:
    """Return the fitted numbers that ship with PDPC."""
    return Coefficients(**fitted_file()["coefficients"])
