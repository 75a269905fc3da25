"""The fused functions and the loss, plain and Liger's, compared with their definitions in float64.

Shapes: N tokens, T tokens per sample, H heads, S head size, W width, F inner size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.check import Check, Row, Skipped
from benchmarks.gpu.closeness import apart, bound_of, largest
from models.config import DecoderConfig
from models.kernels import Kernels, choose
from models.kernels.interface import IGNORED
from models.losses import cross_entropy
from models.losses.cross_entropy import linear_cross_entropy
from models.rotary import rotary_table

NAMES = ("plain", "liger")
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
CONFIG = DecoderConfig(vocab_size=1000, layers=1, width=256, heads=4, kv_heads=2, ffn=688, max_seq_len=64)
ROWS, EPS = 3, 1e-5
CHUNKS = 3
"""The loss is checked over this many chunks, the last one shorter."""
BYTES_PER_CHUNK_LOGIT = {"plain": 12, "liger": 4}
"""Bound on the loss's memory on top of the gradients, per element of CHUNK_LOGITS (docs/hot-path.md)."""
Inputs = list[Tensor]


def checks(settings: Mapping[str, Any]) -> dict[str, Check]:
    """Return the checks by name."""
    device = torch.device(settings["device"])
    made: dict[str, Check] = {}
    for name in NAMES:
        for dtype in DTYPES:
            for function in ("rms_norm", "rotate", "swiglu"):
                made[f"{name} {function} {dtype}"] = partial(_function, name, function, DTYPES[dtype], device)
            made[f"{name} loss {dtype}"] = partial(_loss, name, DTYPES[dtype], device)
        made[f"{name} loss, memory"] = partial(_memory, name, settings, device)
    return made


def kernels_of(name: str, device: torch.device) -> Kernels:
    """Return kernels by name; raise Skipped if they cannot run here."""
    try:
        return choose(name, device.type)
    except ValueError as error:
        raise Skipped(str(error)) from error


def _function(name: str, function: str, dtype: torch.dtype, device: torch.device) -> Row:
    """Compare one function and its gradients."""
    kernels = kernels_of(name, device)
    rotary = rotary_table(CONFIG, CONFIG.max_seq_len, device)
    heads = (ROWS, CONFIG.max_seq_len, CONFIG.heads, CONFIG.head_size)
    keys = (ROWS, CONFIG.max_seq_len, CONFIG.kv_heads, CONFIG.head_size)
    inner = (ROWS, CONFIG.max_seq_len, CONFIG.ffn)
    shapes: dict[str, list[tuple[int, ...]]] = {
        "rms_norm": [(ROWS, CONFIG.max_seq_len, CONFIG.width), (CONFIG.width,)],
        "rotate": [heads, keys],
        "swiglu": [inner, inner],
    }
    given = [_draw(shape, dtype, device, seed) for seed, shape in enumerate(shapes[function])]
    ours: dict[str, Callable[[Inputs], tuple[Tensor, ...]]] = {
        "rms_norm": lambda x: (kernels.rms_norm(x[0], x[1], EPS),),
        "rotate": lambda x: kernels.rotate(x[0] * 1, x[1] * 1, rotary),  # copies: it may overwrite its inputs
        "swiglu": lambda x: (kernels.swiglu(x[0] * 1, x[1] * 1),),
    }
    defined: dict[str, Callable[[Inputs], tuple[Tensor, ...]]] = {
        "rms_norm": lambda x: (x[0] * (x[0].square().mean(-1, keepdim=True) + EPS).rsqrt() * x[1],),
        "rotate": lambda x: tuple(_rotated(each, *rotary) for each in x),
        "swiglu": lambda x: (x[0] * torch.sigmoid(x[0]) * x[1],),
    }
    found = _both_passes(ours[function], given)
    expected = _both_passes(defined[function], [x.detach().double().requires_grad_() for x in given])
    error = max(largest(one, other) for one, other in zip(found, expected, strict=True))
    return {"error": error, "bound": bound_of(dtype, device)}


def _rotated(x_BTHS: Tensor, cos_TS: Tensor, sin_TS: Tensor) -> Tensor:
    first, second = x_BTHS.chunk(2, dim=-1)
    cos, sin = (table.double()[:, None, :] for table in (cos_TS, sin_TS))
    return x_BTHS * cos + torch.cat([-second, first], dim=-1) * sin


def _both_passes(function: Callable[[Inputs], tuple[Tensor, ...]], inputs: Inputs) -> list[Tensor]:
    outputs = function(inputs)
    weights = [_draw(out.shape, out.dtype, out.device, 10 + n).detach() for n, out in enumerate(outputs)]
    kept = [out.detach().clone() for out in outputs]  # a backward pass may overwrite them
    return [*kept, *torch.autograd.grad(outputs, inputs, weights)]


def _loss(name: str, dtype: torch.dtype, device: torch.device) -> Row:
    """Compare head and cross-entropy over several chunks, with ignored labels, weights and z-loss."""
    kernels = kernels_of(name, device)
    tokens, z_loss = 500, 1e-2
    hidden, head = (
        _draw((tokens, CONFIG.width), dtype, device, 0),
        _draw((CONFIG.vocab_size, CONFIG.width), dtype, device, 1),
    )
    head = (head.detach() / 16).requires_grad_()
    labels = torch.randint(CONFIG.vocab_size, (tokens,), generator=torch.Generator().manual_seed(2)).to(device)
    labels[::7] = IGNORED
    weights = _draw((tokens,), torch.float32, device, 3).detach()
    before = cross_entropy.CHUNK_LOGITS
    cross_entropy.CHUNK_LOGITS = (tokens // CHUNKS + 1) * CONFIG.vocab_size * hidden.element_size() // 4
    try:
        total, losses = linear_cross_entropy(hidden, head, labels, weights_N=weights, z_loss=z_loss, kernels=kernels)
        found = [total.detach(), losses, *torch.autograd.grad(total, (hidden, head))]
    finally:
        cross_entropy.CHUNK_LOGITS = before
    exact_hidden, exact_head = (x.detach().double().requires_grad_() for x in (hidden, head))
    logits = exact_hidden @ exact_head.T
    exact_losses = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="none")
    squares = torch.where(labels == IGNORED, 0.0, logits.logsumexp(-1).square())
    exact_total = (weights * (exact_losses + z_loss * squares)).sum()
    gradients = torch.autograd.grad(exact_total, (exact_hidden, exact_head))
    sums = max(apart([found[0]], [exact_total]), apart([found[1]], [exact_losses]))
    error = max(sums, *(apart([one], [other]) for one, other in zip(found[2:], gradients, strict=True)))
    return {"error": error, "bound": bound_of(dtype, device)}


def _memory(name: str, settings: Mapping[str, Any], device: torch.device) -> Row:
    """Compare the loss's peak memory on top of its gradients with the documented bound."""
    if device.type != "cuda":
        raise Skipped("memory is counted on a GPU only")
    kernels = kernels_of(name, device)
    vocabulary, width = 50_304, 2048
    hidden = _draw((settings["tokens"], width), torch.bfloat16, device, 0)
    head = _draw((vocabulary, width), torch.bfloat16, device, 1)
    labels = torch.zeros(settings["tokens"], dtype=torch.int64, device=device)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    linear_cross_entropy(hidden, head, labels, kernels=kernels)
    torch.cuda.synchronize()
    gradients = 4 * head.numel() + 2 * hidden.numel() + 16 * len(labels)
    extra = torch.cuda.max_memory_allocated() - before - gradients
    bound = BYTES_PER_CHUNK_LOGIT[name] * cross_entropy.CHUNK_LOGITS + 2 * hidden.numel()
    return {"error": extra / 2**20, "bound": bound / 2**20, "unit": "MiB"}


def _draw(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(device, dtype).requires_grad_()
