"""DeepSpeed's JSON, generated from the settings; nothing else writes it."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from curriculum.order.split import Split
from train.settings import TrainSettings, ZeroSettings

BLOCK_BYTES = 1 << 20
"""Size of a read or write on NVMe; smaller tensors stay in memory."""


def deepspeed_config(settings: TrainSettings, batch_size: int, world_size: int) -> dict[str, Any]:
    """Return DeepSpeed's JSON for a run; the RUN folder keeps it as `ds_config.json`.

    Raises ValueError when the global batch cannot be split into micro-batches over the ranks.
    """
    split = Split(batch_size, world_size, settings.micro_batch_size)
    return {
        "train_batch_size": batch_size,
        "train_micro_batch_size_per_gpu": settings.micro_batch_size,
        "gradient_accumulation_steps": split.accumulation,
        "gradient_clipping": settings.optimizer.clip_norm,
        "bf16": {"enabled": settings.precision == "bf16", "check_grad_overflow": False},  # Engine.step checks
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": settings.zero.reduce_in,
        "zero_optimization": _zero(settings.zero, element_bytes=2 if settings.precision == "bf16" else 4),
        # torch's AdamW runs on the CPU too; DeepSpeed's CPU AdamW would have to be compiled first.
        "zero_force_ds_cpu_optimizer": False,
        **({"aio": _aio(settings.zero)} if settings.zero.uses_nvme else {}),
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }


def _zero(zero: ZeroSettings, *, element_bytes: int) -> dict[str, Any]:
    bucket = zero.bucket_mb * 1_000_000 // element_bytes  # DeepSpeed counts elements
    config: dict[str, Any] = {
        "stage": zero.stage,
        "overlap_comm": zero.overlap_comm,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    if zero.stage == 3:
        config["sub_group_size"] = zero.sub_group_size
    for key in ("offload_optimizer", "offload_param"):
        device = getattr(zero, key)
        if device != "none":
            config[key] = {"device": device, "pin_memory": zero.pin_memory}
            if device == "nvme":
                config[key]["nvme_path"] = zero.nvme_path
    if zero.offload_optimizer == "nvme":
        config["offload_optimizer"]["buffer_count"] = 4  # weights, two moments, gradient
    if zero.offload_param == "nvme":
        config["offload_param"]["max_in_cpu"] = 0  # by default DeepSpeed keeps the first 1e9 elements in host memory
    return config


def _aio(zero: ZeroSettings) -> dict[str, Any]:
    return {"block_size": BLOCK_BYTES, "queue_depth": zero.nvme_requests}


def on_disk(config: dict[str, Any], folder: Path, largest: int, parameters: int) -> dict[str, Any]:
    """Return DeepSpeed's JSON for a rank that swaps to `folder`; `largest`: elements of the largest partition.

    By default DeepSpeed has five parameter buffers of 1e8 elements each: too large for a small model, too small for a
    large one, and too few when the weights of neighbouring modules stay gathered or an evaluation gathers all of them.
    So there is one buffer per parameter (`parameters`).
    """
    made = deepcopy(config)
    for section in (made["zero_optimization"].get(key, {}) for key in ("offload_optimizer", "offload_param")):
        if section.get("device") == "nvme":
            section["nvme_path"] = str(folder)
            if "max_in_cpu" in section:
                section |= {"buffer_size": largest, "buffer_count": parameters}
    return made
