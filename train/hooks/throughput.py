"""Throughput: tokens per second, model FLOPs utilization (MFU), where a step's time goes, and peak memory.

    MFU = FLOPs per token * tokens per second per device / peak FLOP/s of a device

FLOPs per token: `DecoderConfig.operations_per_token`, 6 per parameter in a matrix product, and attention over the whole
sample (`throughput/mfu`, the convention of llm-foundry, torchtitan, OLMo-core) or over half of it, since no token looks
ahead (`throughput/mfu_causal`, Megatron-core since 2025). Recomputation and weight updates are not counted.
"""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from train.hooks.clock import Clock, Mark
from train.hooks.hook import Hook

if TYPE_CHECKING:
    from models.losses.cross_entropy import TokenLosses
    from train.batches import Batch
    from train.loop_state import LoopState
    from train.settings import TrainSettings
    from train.tracking import Record

PEAK_TFLOPS = {
    "A100": 312.0,
    "A800": 312.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H800 PCIe": 756.0,
    "H800": 989.0,
    "H200 NVL": 835.0,
    "H200": 989.0,
    "H20": 148.0,
    "L40S": 362.0,
    "B200": 2250.0,
}
"""Dense bf16 peak by words of the device's name, the first that match: half of the figure with sparsity in NVIDIA's
datasheets. A name without PCIe or NVL is the SXM board; A800 and H800 are A100 and H100 with a slower link."""

PHASES = ("forward", "backward", "optimizer")
MARKS_KEPT = 4096
"""Most phases whose marks a window keeps; in a longer window, the first ones determine the split."""


class Throughput(Hook):
    """Measures the steps since the last record, without the time between them (records, checkpoints, evaluations)."""

    name = "throughput"

    def __init__(self, settings: TrainSettings) -> None:
        self._settings = settings
        self._peak_tflops: float | None = None
        self._clock = Clock(torch.device("cpu"))
        self._handle: Any = None
        self._in_step = False
        self._in_forward = False
        self._begin()

    def _begin(self) -> None:
        """Start a window."""
        self._tokens, self._steps = 0, 0
        self._since: float | None = None
        self._apart_s, self._waited_s = 0.0, 0.0
        self._stopped, self._interrupted = 0.0, False
        self._spans: list[tuple[str, Mark, Mark]] = []
        self._timed_steps = 0
        self._last: Mark | None = None

    def pre_train(self, loop: LoopState) -> None:
        """Look up the device's peak; hook the start of forward passes."""
        self._clock = Clock(loop.world.device)
        self._peak_tflops = peak_tflops(self._settings, loop.world.device)
        self._handle = loop.engine.decoder.register_forward_pre_hook(self._forward_begins)

    def pre_step(self, loop: LoopState, batch: Batch) -> None:
        """Start a step. Time since the last one belongs to it, unless a checkpoint was written meanwhile."""
        now, waited_s = time.perf_counter(), loop.window.waited_s
        if self._since is None:
            self._since = now - waited_s
        elif self._interrupted:
            self._apart_s += now - self._stopped - (waited_s - self._waited_s)
        self._waited_s, self._interrupted = waited_s, False
        self._in_step = True
        self._last = None

    def _forward_begins(self, *_: object) -> None:
        if not self._in_step or self._in_forward:  # an objective may pass through the model more than once
            return
        self._in_forward = True
        mark = self._clock.mark()
        if self._last is not None:
            self._span("backward", self._last, mark)
        self._last = mark

    def post_forward(self, loop: LoopState, batch: Batch, index: int, losses: TokenLosses) -> None:
        """End a forward pass; the backward pass lasts until the next one or the update."""
        self._in_forward = False
        self._next("forward")

    def pre_optim_step(self, loop: LoopState) -> None:
        """End the last backward pass."""
        self._next("backward")

    def post_step(self, loop: LoopState, batch: Batch) -> None:
        """End the update and the step."""
        self._next("optimizer")
        self._in_step = False
        self._tokens += batch.global_tokens
        self._steps += 1
        self._timed_steps += len(self._spans) < MARKS_KEPT
        self._stopped = time.perf_counter()

    def post_checkpoint(self, loop: LoopState, folder: Path) -> None:
        """Exclude the time since the last step."""
        self._interrupted = True

    def _next(self, phase: str) -> None:
        mark = self._clock.mark()
        if self._last is not None:
            self._span(phase, self._last, mark)
        self._last = mark

    def _span(self, phase: str, first: Mark, last: Mark) -> None:
        if len(self._spans) < MARKS_KEPT:
            self._spans.append((phase, first, last))

    def metrics(self, loop: LoopState) -> Record:
        """Return the window's timings and the peak memory over all ranks, and start the next window."""
        world = loop.world
        split = {f"time/{phase}_s": 0.0 for phase in PHASES}
        for phase, first, last in self._spans:
            split[f"time/{phase}_s"] += self._clock.between(first, last) / max(1, self._timed_steps)
        assert self._since is not None, "a record covers at least one step"
        step_s = (time.perf_counter() - self._since - self._apart_s) / self._steps
        wait_s = loop.window.waited_s / self._steps
        tokens_per_s = self._tokens / (step_s * self._steps)
        peaks = torch.zeros(world.size, dtype=torch.float64, device=world.device)
        peaks[world.rank] = peak_gib(world.device)
        record: Record = {
            "throughput/tokens_per_s": tokens_per_s,
            "throughput/tokens_per_s_device": tokens_per_s / world.size,
            "throughput/tokens_total": loop.progress.tokens,
            **self._utilisation(loop, tokens_per_s / world.size),
            "time/step_s": step_s,
            **split,
            "time/other_s": max(0.0, step_s - wait_s - sum(split.values())),
            "data/wait_s": wait_s,
            "memory/peak_gib": float(world.all_sum(peaks).max()),
        }
        self._begin()
        return record

    def _utilisation(self, loop: LoopState, tokens_per_s: float) -> Record:
        """Return TFLOP/s per device and, if its peak is known, MFU in both conventions."""
        decoder, seq_len = loop.inputs.decoder, loop.inputs.tokens.seq_len
        full, causal = (
            decoder.operations_per_token(seq_len, causal=causal) * tokens_per_s / 1e12 for causal in (False, True)
        )
        values: Record = {"throughput/tflops_device": full}
        if self._peak_tflops is not None:
            values |= {"throughput/mfu": full / self._peak_tflops, "throughput/mfu_causal": causal / self._peak_tflops}
        return values

    def close(self, loop: LoopState) -> None:
        """Remove the hook from the decoder."""
        if self._handle is not None:
            self._handle.remove()


def peak_tflops(settings: TrainSettings, device: torch.device) -> float | None:
    """Return the peak for MFU: from the settings, or the bf16 peak of a known device; None if neither is known."""
    if settings.throughput.peak_tflops is not None:
        return settings.throughput.peak_tflops
    if device.type != "cuda" or settings.precision != "bf16":
        return None
    return peak_of(torch.cuda.get_device_name(device))


def peak_of(name: str) -> float | None:
    """Return the dense bf16 peak in TFLOP/s of a device by its name; None if it is not in the table."""
    words = set(re.split(r"[^A-Za-z0-9]+", name))
    if "MIG" in words:
        return None  # a part of a GPU
    return next((peak for key, peak in PEAK_TFLOPS.items() if words.issuperset(key.split())), None)


def peak_gib(device: torch.device) -> float:
    """Return the peak memory so far in GiB: allocated on a GPU, resident on the CPU (VmHWM of this process)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    status = Path("/proc/self/status").read_text("ascii") if Path("/proc/self/status").exists() else ""
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found.group(1)) / 2**20 if found else 0.0
