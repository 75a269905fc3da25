"""The parts of a recipe and their hours: references, scoring, every arm with its checkpoints, evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from curriculum.order.split import Split, divisors
from launch.estimate.activations import recomputed_blocks
from launch.estimate.hardware import Accelerators
from launch.estimate.known import Known
from launch.estimate.memory import Memory, memory
from launch.estimate.speed import Coefficients, Seconds, Traffic, Work, forward_seconds_per_token, step_seconds
from models.config import DecoderConfig
from train.settings import TrainSettings

FLOAT32_PEAK = 1 / 16
"""Peak in float32 without tensor cores over that in bf16: 19.5 of 312 TFLOP/s on an A100."""
STATE_BYTES = 12
"""A checkpoint holds float32 weights and two moments; also a running average if there is one."""


@dataclass(frozen=True)
class Step:
    """One training step on all ranks."""

    seconds: Seconds
    tokens: int
    operations_per_token: int
    operations_per_token_causal: int
    devices: int
    peak_tflops: float

    @property
    def tokens_per_s(self) -> float:
        """Of all devices."""
        return self.tokens / self.seconds.total

    def mfu(self, *, causal: bool = False) -> float:
        """Return the share of the peak that the model's FLOPs use, in one of the two conventions."""
        operations = self.operations_per_token_causal if causal else self.operations_per_token
        return operations * self.tokens_per_s / self.devices / (self.peak_tflops * 1e12)


@dataclass(frozen=True)
class Checkpoints:
    """Size of a checkpoint, how often to write one, and what that costs."""

    size: int
    """Bytes."""
    stall_s: float
    """Seconds that training waits."""
    mtbf_s: float
    """Seconds between failures of the whole cluster."""
    young_s: float
    """Young's interval, sqrt(2 * stall * MTBF)."""
    daly_s: float
    """Daly's, of higher order."""
    every_steps: int
    """Daly's interval in steps."""
    save_every: int | None
    """As set; None: only at stage ends."""
    written: int
    """Checkpoints of one arm, as set."""
    kept: int
    """Of them, on disk at the end."""

    @property
    def stalled_s(self) -> float:
        """Seconds of one arm that go into writing."""
        return self.written * self.stall_s


@dataclass(frozen=True)
class Part:
    """A part of the recipe."""

    name: str
    what: str
    tokens: float
    hours: float
    gpu_hours: float


def step_of(
    train: TrainSettings,
    decoder: DecoderConfig,
    data: Known,
    hardware: Accelerators,
    fitted: Coefficients,
    micro_batch: int,
) -> Step:
    """Return the step of a run. Raises ValueError if the batch does not divide."""
    ranks, seq_len = hardware.devices, data.seq_len
    accumulation = Split(data.batch_size, ranks, micro_batch).accumulation
    bf16 = train.precision == "bf16"
    work = Work.of(decoder, seq_len)
    seconds = step_seconds(
        work,
        hardware,
        fitted,
        micro_batch_tokens=micro_batch * seq_len,
        accumulation=accumulation,
        traffic=Traffic.of(
            train.zero.stage,
            gradient_bytes=2 if train.zero.reduce_in == "bf16" else 4,
            element_bytes=2 if bf16 else 4,
        ),
        recomputed=recomputed_blocks(train.execution, decoder.layers) / decoder.layers,
        updated=work.parameters / (ranks if train.zero.stage else 1),
        peak_share=1.0 if bf16 else FLOAT32_PEAK,
    )
    full, causal = (decoder.operations_per_token(seq_len, causal=causal) for causal in (False, True))
    return Step(seconds, data.batch_size * seq_len, full, causal, ranks, hardware.peak_tflops)


def micro_batches(data: Known, ranks: int) -> list[int]:
    """Return the micro-batches that divide a rank's part of the batch. Raises ValueError if the ranks do not."""
    if data.batch_size % ranks and data.origin.get("batch_size") == "assumed":
        raise ValueError(
            f"{ranks} GPUs do not divide the assumed batch of {data.batch_size} samples: give batch_size=, a multiple "
            f"of {ranks}"
        )
    return divisors(Split(data.batch_size, ranks).part_size)


def memories(train: TrainSettings, decoder: DecoderConfig, data: Known, ranks: int, stage: int) -> dict[int, Memory]:
    """Return the memory of a rank at a ZeRO stage, by micro-batch."""
    zero = replace(train.zero, stage=stage)
    changed = replace(train, zero=zero)
    found = {}
    for size in micro_batches(data, ranks):
        accumulation = Split(data.batch_size, ranks, size).accumulation
        found[size] = memory(changed, decoder, data.seq_len, ranks, size, accumulation)
    return found


def stages_for(train: TrainSettings) -> Sequence[int]:
    """Return the ZeRO stages that the run's offloading allows."""
    least = (
        3 if train.zero.offload_param != "none" or train.zero.uses_nvme else int(train.zero.offload_optimizer != "none")
    )
    return range(least, 4)


def largest(found: dict[int, Memory], available: int) -> int | None:
    """Return the largest micro-batch that fits, None if none does."""
    return max((size for size, need in found.items() if need.total <= available), default=None)


def checkpoints_of(
    train: TrainSettings, decoder: DecoderConfig, data: Known, hardware: Accelerators, step_s: float
) -> Checkpoints:
    """Return size and interval of checkpoints (Young 1974; Daly 2006, doi 10.1016/j.future.2004.11.016, eq. 37)."""
    size = decoder.parameter_count() * (STATE_BYTES + (4 if train.averaging.decay else 0))
    stall = size / (hardware.disk_gb_s * 1e9)
    mtbf = hardware.mtbf_gpu_hours * 3600 / hardware.devices
    young = math.sqrt(2 * stall * mtbf)
    daly = mtbf
    if stall < 2 * mtbf:
        share = stall / (2 * mtbf)
        daly = young * (1 + math.sqrt(share) / 3 + share / 9) - stall
    save_every, keep = train.checkpoints.save_every, train.checkpoints
    at_stages = min(data.stages, data.steps)
    written = at_stages + (data.steps // save_every if save_every else 0)
    kept = min(written, keep.keep_last + (at_stages if keep.keep_stages else 0))
    kept += written // keep.keep_every if keep.keep_every else 0
    every = max(1, round(daly / step_s))
    return Checkpoints(size, stall, mtbf, young, daly, every, save_every, written, min(kept, written))


def forward_part(
    name: str,
    what: str,
    decoders: Sequence[tuple[DecoderConfig, float]],
    data: Known,
    hardware: Accelerators,
    fitted: Coefficients,
) -> Part:
    """Return a part that only runs models forward: decoders, each with its tokens."""
    seconds = sum(
        tokens * forward_seconds_per_token(Work.of(decoder, data.seq_len), hardware, fitted)
        for decoder, tokens in decoders
    )
    tokens = max((tokens for _, tokens in decoders), default=0.0)
    return Part(name, what, tokens, seconds / hardware.devices / 3600, seconds / 3600)


def training_part(name: str, what: str, step: Step, tokens: float, runs: int, stalled_s: float = 0.0) -> Part:
    """Return a part that trains, one run after another."""
    hours = runs * (tokens / step.tokens_per_s + stalled_s) / 3600
    return Part(name, what, tokens * runs, hours, hours * step.devices)


def lost_part(parts: Sequence[Part], saved: Checkpoints, step_s: float, hardware: Accelerators) -> Part:
    """Return what failures are expected to cost the arms: half an interval each."""
    hours = sum(part.hours for part in parts)
    interval = (saved.save_every or saved.every_steps) * step_s
    lost = hours * 3600 / saved.mtbf_s * interval / 2 / 3600
    return Part(
        "failures",
        f"{hours * 3600 / saved.mtbf_s:.2f} expected, each costs half an interval",
        0.0,
        lost,
        lost * hardware.devices,
    )
