"""Every attention backend, forward and backward, compared with `reference` in float32 on the same packed documents.

Shapes: N tokens, H query heads, K key/value heads, S head size.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.check import Check, Row, Skipped
from benchmarks.gpu.closeness import bound_of, largest
from models.attention import BACKENDS, Documents, pack

REFERENCE = "reference"
SHAPES = ((4, 4, 64), (8, 2, 128), (4, 1, 80))
"""Query heads, key/value heads, head size."""
LAYOUTS = {
    "packed": Documents((1, 7, 64, 100, 84, 200, 1, 55), 2),
    "one per sample": Documents((256, 256), 2),
    "short": Documents((16,) * 16, 1),
}
ORDER_OF_SUMS = ("flash", "varlen")
"""Backends whose backward pass adds in any order unless torch.use_deterministic_algorithms is set."""


def checks(settings: Mapping[str, Any]) -> dict[str, Check]:
    """Return the checks by name."""
    device = torch.device(settings["device"])
    names = [name for name in BACKENDS if name != REFERENCE]
    made: dict[str, Check] = {f"attention {name}": partial(against_reference, name, device) for name in names}
    made |= {f"attention {name}, same bits twice": partial(same_bits, name, device) for name in ORDER_OF_SUMS}
    return made


def against_reference(name: str, device: torch.device, dtype: torch.dtype = torch.bfloat16) -> Row:
    """Compare output and gradients over shapes and layouts; between documents the gradients must be exactly zero."""
    worst, leak, cases = 0.0, 0.0, 0
    for heads, kv_heads, size in SHAPES:
        refuse(name, size, dtype, device)
        for documents in LAYOUTS.values():
            inputs = draw(documents.tokens, heads, kv_heads, size, dtype, device)
            exact = [x.detach().float().requires_grad_(x.requires_grad) for x in inputs]
            found, expected = both_passes(name, documents, inputs), both_passes(REFERENCE, documents, exact)
            worst = max([worst, *(largest(one, other) for one, other in zip(found, expected, strict=True))])
            leak = max(leak, leaked(name, documents, inputs))
            cases += 1
    if leak:
        return {"error": leak, "bound": 0.0, "cases": cases, "what": "gradient between documents"}
    return {"error": worst, "bound": bound_of(dtype, device), "cases": cases}


def same_bits(name: str, device: torch.device) -> Row:
    """Run both passes twice with deterministic algorithms; every bit must be the same."""
    documents, dtype = LAYOUTS["packed"], torch.bfloat16
    refuse(name, 64, dtype, device)
    inputs = draw(documents.tokens, 4, 2, 64, dtype, device)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        first, second = both_passes(name, documents, inputs), both_passes(name, documents, inputs)
    finally:
        torch.use_deterministic_algorithms(before)
    return {"error": float(sum(not torch.equal(a, b) for a, b in zip(first, second, strict=True))), "bound": 0.0}


def refuse(name: str, head_size: int, dtype: torch.dtype, device: torch.device) -> None:
    """Raise Skipped if the backend cannot run here."""
    reason = BACKENDS[name].refusal(head_size, dtype, device, True)
    if reason is not None:
        raise Skipped(reason)


def draw(tokens: int, heads: int, kv_heads: int, size: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """Return random queries, keys and values, and a gradient of the output."""
    generator = torch.Generator().manual_seed(tokens + heads)
    shapes = [(tokens, each, size) for each in (heads, kv_heads, kv_heads, heads)]
    drawn = [torch.randn(shape, generator=generator).to(device, dtype) for shape in shapes]
    return [*(x.requires_grad_() for x in drawn[:3]), drawn[3]]


def both_passes(name: str, documents: Documents, inputs: list[Tensor]) -> list[Tensor]:
    """Return the output, and the gradients of queries, keys and values."""
    q_NHS, k_NKS, v_NKS, grad_NHS = inputs
    packed = pack(documents, name, q_NHS.shape[-1], q_NHS.dtype, q_NHS.device)
    out_NHS = packed.attend(q_NHS, k_NKS, v_NKS)
    return [out_NHS, *torch.autograd.grad(out_NHS, (q_NHS, k_NKS, v_NKS), grad_NHS)]


def leaked(name: str, documents: Documents, inputs: list[Tensor]) -> float:
    """Return the largest gradient that the first document's output has outside it."""
    q_NHS, k_NKS, v_NKS, grad_NHS = inputs
    first = documents.lengths[0]
    grad_NHS = grad_NHS.clone()
    grad_NHS[first:] = 0
    gradients = both_passes(name, documents, [q_NHS, k_NKS, v_NKS, grad_NHS])[1:]
    return max(float(gradient[first:].abs().max()) for gradient in gradients)
