"""A real run's metrics: how fast it was and what it held, compared with the estimate of that same run."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from curriculum.artifact.files import ArtifactError, read_text, reading
from launch.estimate.hardware import Accelerators
from models.config import DecoderConfig
from train.records.layout import METRICS
from train.records.run_json import read_run
from train.settings import TrainSettings

SPEED, FLOPS, PEAK = "throughput/tokens_per_s_device", "throughput/tflops_device", "memory/peak_gib"
FIRST = 1
"""Records left out where there are more: the first one holds warm-up and compilation."""
REMEDY = "give a run of pdpc train that has recorded steps (log_every)"


@dataclass(frozen=True)
class RealRun:
    """What a run recorded."""

    folder: Path
    device: str
    """Name of its GPU, or cpu."""
    ranks: int
    settings: TrainSettings
    accumulation: int
    decoder: DecoderConfig
    tokens_per_s: float
    """Median per device."""
    peak_bytes: int | None
    """Largest peak of a rank, None if it was not recorded."""

    @property
    def on_gpu(self) -> bool:
        """Did it run on GPUs?"""
        return self.device != "cpu"


@dataclass(frozen=True)
class Correction:
    """How a real run differs from its own estimate."""

    speed: float = 1.0
    """Measured over estimated tokens/s."""
    bytes: int = 0
    """Measured minus estimated peak."""
    run: str | None = None

    def applied(self, hardware: Accelerators) -> Accelerators:
        """Return the hardware with the measured speed."""
        return replace(hardware, relative_speed=hardware.relative_speed * self.speed)


def read_real_run(folder: Path) -> RealRun:
    """Return what the RUN in `folder` recorded. Raises ArtifactError naming what is missing or damaged."""
    from train.tracking import read_metrics

    facts = read_run(folder)
    lacking = [
        key for key in ("device", "world_size", "accumulation", "micro_batch_size", "zero_stage") if key not in facts
    ]
    path = folder / "config.json"
    if lacking or not path.is_file() or not (folder / METRICS).is_file():
        missing = ", ".join(lacking) or ("config.json" if not path.is_file() else METRICS)
        raise ArtifactError(f"{folder} has no {missing}: {REMEDY}")
    with reading(path, "restore it"):
        settings = _settings(json.loads(read_text(path)), facts)
    records = [record for record in read_metrics(folder / METRICS) if SPEED in record and FLOPS in record]
    if not records:
        raise ArtifactError(f"{folder / METRICS} has no record with {SPEED}: {REMEDY}")
    used = records[FIRST:] or records
    decoder = _decoder(settings, int(facts["parameters"]), used[-1][FLOPS] * 1e12 / used[-1][SPEED])
    peaks = [record[PEAK] for record in records if record.get(PEAK)]
    return RealRun(
        folder, str(facts["device"]), int(facts["world_size"]), settings, int(facts["accumulation"]), decoder,
        median(record[SPEED] for record in used), int(max(peaks) * 2**30) if peaks else None,
    )  # fmt: skip


def _settings(config: Mapping[str, Any], facts: Mapping[str, Any]) -> TrainSettings:
    """Return a run's settings from its config.json, with the split of its last attempt."""
    from omegaconf import OmegaConf

    merged = OmegaConf.merge(OmegaConf.structured(TrainSettings), OmegaConf.create(dict(config)))
    made = OmegaConf.to_object(merged)
    assert isinstance(made, TrainSettings)
    zero = replace(made.zero, stage=int(facts["zero_stage"]))
    return replace(made, zero=zero, micro_batch_size=int(facts["micro_batch_size"]))


def _decoder(settings: TrainSettings, parameters: int, operations: float) -> DecoderConfig:
    """Return the decoder whose parameters and FLOPs per token a run recorded."""
    model = settings.model
    matrices = 1 if model.tie_embeddings else 2
    body = model.decoder_config(1, 1, None).parameter_count(embeddings=False)
    vocabulary = (parameters - body) // (matrices * model.width)
    one = replace(model, vocab_multiple=1).decoder_config(vocabulary, 1, None)
    if one.parameter_count() != parameters:
        raise ArtifactError(f"run.json has {parameters} parameters, which its config.json does not make: {REMEDY}")
    per_position = one.operations_per_token(2) - one.operations_per_token(1)
    length = round((operations - one.operations_per_token(0)) / per_position)
    if not 1 <= length < 1e7 or not math.isfinite(operations):
        raise ArtifactError(
            f"{METRICS} records {operations:.4g} FLOPs per token, which its model does not make: {REMEDY}"
        )
    return replace(one, max_seq_len=length)


def card_matches(run: RealRun, hardware: Accelerators) -> bool:
    """Return whether a run's GPU has the peak of the hardware that is estimated."""
    from train.hooks.throughput import peak_of

    return run.on_gpu and peak_of(run.device) == hardware.peak_tflops
