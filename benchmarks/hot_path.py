"""Time and memory of the loss and of activation checkpointing on this machine, with the variants interleaved.

    python -m benchmarks.hot_path --rounds 3 [--tokens 2048 --width 512 --vocabulary 32000 --layers 4]

Times are the best of the rounds, on one thread, all in one process. Memory is the growth of the peak resident size over
the inputs, measured in a separate process for each variant.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.processes import forget_peak, peak_bytes
from models.config import DecoderConfig
from models.decoder import build
from models.execution import ExecutionSettings
from models.losses.cross_entropy import linear_cross_entropy

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MODES = ("none", "selective", "every", "full")


def _ours(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return linear_cross_entropy(hidden, weight, labels)[0]


def _torch_chunked(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    options = torch.nn.LinearCrossEntropyOptions()
    return F.linear_cross_entropy(hidden, weight, labels, reduction="sum", options=options)


def _all_logits(hidden: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy((hidden @ weight.T).float(), labels, reduction="sum")


LOSSES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "ours": _ours,
    "torch, chunked": _torch_chunked,
    "all logits": _all_logits,
}


def loss_step(sizes: argparse.Namespace, dtype: torch.dtype, name: str) -> Callable[[], float]:
    """Return a call that runs one loss forward and backward, and returns its mean."""
    torch.manual_seed(0)
    hidden = torch.randn(sizes.tokens, sizes.width).to(dtype).requires_grad_()
    weight = (0.05 * torch.randn(sizes.vocabulary, sizes.width)).to(dtype).requires_grad_()
    labels = torch.randint(0, sizes.vocabulary, (sizes.tokens,))

    def step() -> float:
        hidden.grad = weight.grad = None
        mean = LOSSES[name](hidden, weight, labels) / sizes.tokens
        mean.backward()
        return float(mean.detach())

    return step


def body_step(sizes: argparse.Namespace, dtype: torch.dtype, name: str) -> Callable[[], float]:
    """Return a call that runs one forward and backward pass of a decoder with a small vocabulary."""
    ffn = sizes.width * 11 // 4
    config = DecoderConfig(
        vocab_size=64,
        layers=sizes.layers,
        width=sizes.width,
        heads=sizes.width // 64,
        kv_heads=sizes.width // 64,
        ffn=ffn,
        max_seq_len=sizes.tokens,
    )
    decoder = build(config, 0, ExecutionSettings(checkpointing=name)).to(dtype)
    ids = torch.randint(0, 64, (max(1, sizes.tokens // 512), 513), generator=torch.Generator().manual_seed(0))

    def step() -> float:
        decoder.zero_grad()
        total = decoder(ids).total / ids[:, 1:].numel()
        total.backward()
        return float(total.detach())

    return step


PARTS = {"loss": (loss_step, tuple(LOSSES)), "body": (body_step, MODES)}


def _peak_mb(part: str, name: str, dtype: str, arguments: list[str]) -> float:
    command = [sys.executable, "-m", "benchmarks.hot_path", "--peak-of", part, name, dtype, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def _print_peak_mb(sizes: argparse.Namespace) -> None:
    part, name, dtype = sizes.peak_of
    step = PARTS[part][0](sizes, DTYPES[dtype], name)
    forget_peak()
    before = peak_bytes()
    step()
    print((peak_bytes() - before) / 2**20)


def main() -> None:
    """Print one JSON line per part, dtype and variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    for name, value in (("tokens", 2048), ("width", 512), ("vocabulary", 32_000), ("layers", 4)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--peak-of", nargs=3, help=argparse.SUPPRESS)
    sizes = parser.parse_args()
    torch.set_num_threads(1)
    if sizes.peak_of:
        return _print_peak_mb(sizes)
    arguments = [f"--{name}={getattr(sizes, name)}" for name in ("tokens", "width", "vocabulary", "layers")]
    for part, (make, names) in PARTS.items():
        for label, dtype in DTYPES.items():
            steps = {name: make(sizes, dtype, name) for name in names}
            values = {name: step() for name, step in steps.items()}
            times: dict[str, list[float]] = {name: [] for name in names}
            for _ in range(sizes.rounds):
                for name, step in steps.items():
                    started = time.perf_counter()
                    step()
                    times[name].append(time.perf_counter() - started)
            for name in names:
                peak_mb = _peak_mb(part, name, label, arguments)
                facts = {"part": part, "dtype": label, "variant": name, "best_s": round(min(times[name]), 3)}
                spread = round(max(times[name]) / min(times[name]) - 1, 2)
                print(json.dumps({**facts, "spread": spread, "peak_mb": round(peak_mb), "mean_loss": values[name]}))


if __name__ == "__main__":
    main()
