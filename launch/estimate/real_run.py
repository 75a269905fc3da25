"""A real run's metrics: how fast it was and what it held, compared with the estimate of that same run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

from curriculum.artifact.files import ArtifactError, reading
from launch.estimate.hardware import Accelerators
from models.config import DecoderConfig
from models.execution import ExecutionSettings
from train.records.config_json import CONFIG, read_config
from train.records.layout import METRICS
from train.records.run_json import read_run
from train.settings import AveragingSettings, DataSettings, ModelSettings, TrainSettings, ZeroSettings

T = TypeVar("T")

SPEED, PEAK = "throughput/tokens_per_s_device", "memory/peak_gib"
FACTS = ("device", "decoder", "world_size", "accumulation", "micro_batch_size", "zero_stage")
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
    lacking = [key for key in FACTS if key not in facts]
    lacking += [name for name in (CONFIG, METRICS) if not (folder / name).is_file()]
    if lacking:
        raise ArtifactError(f"{folder} has no {', '.join(lacking)}: {REMEDY}")
    with reading(folder / CONFIG, "it was written by another version of PDPC: give a run of this one"):
        settings = _settings(read_config(folder), facts)
        decoder = DecoderConfig(**facts["decoder"])
    records = [record for record in read_metrics(folder / METRICS) if SPEED in record]
    if not records:
        raise ArtifactError(f"{folder / METRICS} has no record with {SPEED}: {REMEDY}")
    used = records[FIRST:] or records
    peaks = [record[PEAK] for record in records if record.get(PEAK)]
    return RealRun(
        folder=folder,
        device=str(facts["device"]),
        ranks=int(facts["world_size"]),
        settings=settings,
        accumulation=int(facts["accumulation"]),
        decoder=decoder,
        tokens_per_s=median(record[SPEED] for record in used),
        peak_bytes=int(max(peaks) * 2**30) if peaks else None,
    )


def _settings(config: Mapping[str, Any], facts: Mapping[str, Any]) -> TrainSettings:
    """Return what decides a run's memory and speed: from its config.json, and the split of its last attempt."""

    def own(name: str, kind: type[T]) -> T:
        known = {item.name for item in fields(kind)}  # type: ignore[arg-type]
        return kind(**{key: value for key, value in config[name].items() if key in known})

    return TrainSettings(
        output=config["output"],
        arm=config["arm"],
        data=own("data", DataSettings),
        model=own("model", ModelSettings),
        zero=replace(own("zero", ZeroSettings), stage=int(facts["zero_stage"])),
        averaging=own("averaging", AveragingSettings),
        execution=own("execution", ExecutionSettings),
        precision=config["precision"],
        micro_batch_size=int(facts["micro_batch_size"]),
    )


def card_matches(run: RealRun, hardware: Accelerators) -> bool:
    """Return whether a run's GPU has the peak of the hardware that is estimated."""
    from train.hooks.throughput import peak_of

    return run.on_gpu and peak_of(run.device) == hardware.peak_tflops
