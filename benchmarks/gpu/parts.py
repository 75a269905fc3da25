"""The time of a step's parts on one device, forward and backward: attention backends, and kernels (plain and liger).

Shapes: N tokens, T tokens per sample, H heads, S head size, W width, F inner size, V vocabulary.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.attention import refuse
from benchmarks.gpu.check import Check, Row
from benchmarks.gpu.step import model_of
from models.attention import BACKENDS, Documents, pack
from models.config import DecoderConfig
from models.kernels import choose
from models.losses.cross_entropy import linear_cross_entropy
from models.rotary import rotary_table

YARDSTICK = "reference"
"""Not measured: this backend is for tests, and its N by N mask does not fit at these lengths."""
FUNCTIONS = ("rms_norm", "rotate", "swiglu", "linear_cross_entropy")


def checks(settings: Mapping[str, Any]) -> dict[str, Check]:
    """Return the measurements by name, at the shapes of the first size."""
    device = torch.device(settings["device"])
    config = model_of(settings, settings["size"][0])
    made: dict[str, Check] = {}
    for name in BACKENDS:
        if name != YARDSTICK:
            made[f"time of attention {name}"] = partial(attention_rows, name, config, settings, device)
    for function in FUNCTIONS:
        made[f"time of {function}"] = partial(kernel_row, function, config, settings, device)
    return made


def seconds(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Return the median seconds per call after one warm-up call; a GPU is synchronized before and after each call."""
    taken = []
    for _ in range(repeats + 1):
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        taken.append(time.perf_counter() - start)
    return float(median(taken[1:]))


def attention_rows(name: str, config: DecoderConfig, settings: Mapping[str, Any], device: torch.device) -> Row:
    """Return a row per layout of documents for one backend: milliseconds and TFLOP/s. Raises Skipped."""
    dtype = torch.bfloat16
    refuse(name, config.head_size, dtype, device)
    tokens, seq_len = settings["tokens"], settings["seq_len"]
    layouts = {"one per sample": [seq_len] * (tokens // seq_len), "packed": _lengths(tokens, seq_len, settings["seed"])}
    generator = torch.Generator(device).manual_seed(settings["seed"])
    shapes = [(tokens, heads, config.head_size) for heads in (config.heads, config.kv_heads, config.kv_heads)]
    q_NHS, k_NKS, v_NKS = (
        torch.randn(shape, generator=generator, device=device).to(dtype).requires_grad_() for shape in shapes
    )
    grad_NHS = torch.randn(shapes[0], generator=generator, device=device).to(dtype)
    rows = []
    for layout, lengths in layouts.items():
        packed = pack(Documents(tuple(lengths), tokens // seq_len), name, config.head_size, dtype, device)

        def both(packed: Any = packed) -> None:
            torch.autograd.grad(packed.attend(q_NHS, k_NKS, v_NKS), (q_NHS, k_NKS, v_NKS), grad_NHS)

        taken = seconds(both, device, settings["repeats"])
        # Two products forward, five backward, each of length^2 / 2 * H * S multiply-adds.
        operations = 7 * config.heads * config.head_size * sum(length**2 for length in lengths)
        rows.append({"backend": name, "documents": layout, "ms": 1e3 * taken, "tflop_per_s": operations / taken / 1e12})
    return {"attention": rows}


def kernel_row(function: str, config: DecoderConfig, settings: Mapping[str, Any], device: torch.device) -> Row:
    """Return the milliseconds of one fused function with plain and with liger kernels, or why liger was not run."""
    make = _cases(config, settings, device)[function]
    row: Row = {"function": function}
    for name in ("plain", "liger"):
        try:
            work = make(choose(name, device.type))
        except ValueError as error:
            row[f"{name}_not_run"] = str(error)
        else:
            row[f"{name}_ms"] = 1e3 * seconds(work, device, settings["repeats"])
    return {"kernels": [row]}


def _cases(
    config: DecoderConfig, settings: Mapping[str, Any], device: torch.device
) -> dict[str, Callable[[Any], Callable[[], object]]]:
    """Return, by function name, a factory from kernels to a call that runs the forward and the backward pass."""
    N, T, S = settings["tokens"], settings["seq_len"], config.head_size
    generator = torch.Generator(device).manual_seed(settings["seed"])

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device).bfloat16().requires_grad_()

    x_NW, weight_W = draw(N, config.width), draw(config.width)
    gate_NF, up_NF = draw(N, config.ffn), draw(N, config.ffn)
    q_BTHS, k_BTKS = draw(N // T, T, config.heads, S), draw(N // T, T, config.kv_heads, S)
    head_VW = draw(config.vocab_size, config.width)
    labels_N = torch.randint(config.vocab_size, (N,), generator=generator, device=device)
    rotary = rotary_table(config, T, device)

    def norm(kernels: Any) -> Callable[[], object]:
        return lambda: _both_passes((kernels.rms_norm(x_NW, weight_W, config.norm_eps),), (x_NW, weight_W))

    def rotate(kernels: Any) -> Callable[[], object]:
        # Multiplied by one to copy: the kernel may overwrite its inputs.
        return lambda: _both_passes(kernels.rotate(q_BTHS * 1, k_BTKS * 1, rotary), (q_BTHS, k_BTKS))

    def swiglu(kernels: Any) -> Callable[[], object]:
        return lambda: _both_passes((kernels.swiglu(gate_NF, up_NF),), (gate_NF, up_NF))

    def loss(kernels: Any) -> Callable[[], object]:
        return lambda: torch.autograd.grad(
            linear_cross_entropy(x_NW, head_VW, labels_N, kernels=kernels)[0], (x_NW, head_VW)
        )

    return dict(zip(FUNCTIONS, (norm, rotate, swiglu, loss), strict=True))


def _both_passes(outputs: tuple[Tensor, ...], inputs: tuple[Tensor, ...]) -> object:
    return torch.autograd.grad(outputs, inputs, [output.detach() for output in outputs])


def _lengths(tokens: int, seq_len: int, seed: int) -> list[int]:
    """Return random document lengths with a mean of about a quarter of a sample; no document crosses samples."""
    generator = np.random.default_rng(seed)
    lengths: list[int] = []
    for _ in range(tokens // seq_len):
        left = seq_len
        while left:
            lengths.append(min(left, 1 + int(generator.exponential(seq_len / 4))))
            left -= lengths[-1]
    return lengths


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
