"""DeepSpeed's JSON, made from the settings: the one place where it is made."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

from curriculum.order.split import Split
from train.settings import TrainSettings, ZeroSettings

BLOCK_BYTES = 1 << 20
"""Of a read or write on the fast disk; what is smaller stays in memory."""


def deepspeed_config(settings: TrainSettings, batch_size: int, world_size: int) -> dict[str, Any]:
    """Return DeepSpeed's JSON for a run; it is kept in the RUN folder as `ds_config.json`.

    Raises ValueError when the global batch cannot be split into micro-batches over the ranks.
    """
    split = Split(batch_size, world_size, settings.micro_batch_size)
    return {
        "train_batch_size": batch_size,
        "train_micro_batch_size_per_gpu": settings.micro_batch_size,
        "gradient_accumulation_steps": split.accumulation,
        "gradient_clipping": settings.optimizer.clip_norm,
        "bf16": {"enabled": settings.precision == "bf16", "check_grad_overflow": False},  # AdamW is told: Engine.step
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": settings.zero.reduce_in,
        "zero_optimization": _zero(settings.zero, element_bytes=2 if settings.precision == "bf16" else 4),
        # Ours is torch's AdamW, which runs on the CPU too; DeepSpeed's own would be compiled first.
        "zero_force_ds_cpu_optimizer": False,
        **({"aio": _aio(settings.zero)} if settings.zero.uses_nvme else {}),
        "steps_per_print": 2**31,
        "wall_clock_breakdown": False,
    }


def _zero(zero: ZeroSettings, *, element_bytes: int) -> dict[str, Any]:
    bucket = zero.bucket_mb * 1_000_000 // element_bytes  # DeepSpeed counts elements
    made: dict[str, Any] = {
        "stage": zero.stage,
        "overlap_comm": zero.overlap_comm,
        "reduce_bucket_size": bucket,
        "allgather_bucket_size": bucket,
    }
    if zero.stage == 3:
        made["sub_group_size"] = zero.sub_group_size
    for key in ("offload_optimizer", "offload_param"):
        device = getattr(zero, key)
        if device != "none":
            made[key] = {"device": device, "pin_memory": zero.pin_memory}
            if device == "nvme":
                made[key]["nvme_path"] = zero.nvme_path
    if zero.offload_optimizer == "nvme":
        made["offload_optimizer"]["buffer_count"] = 4  # weights, two moments, gradient
    if zero.offload_param == "nvme":
        made["offload_param"]["max_in_cpu"] = 0  # DeepSpeed would keep the first 1e9 elements in host memory
    return made


def _aio(zero: ZeroSettings) -> dict[str, Any]:
    return {"block_size": BLOCK_BYTES, "queue_depth": zero.nvme_requests}


def on_disk(config: dict[str, Any], folder: Path, largest: int, parameters: int) -> dict[str, Any]:
    """Return DeepSpeed's JSON for a rank that swaps to a folder of its own; `largest`: elements of a parameter's part.

    DeepSpeed's buffers for parameters hold 1e8 elements each, too many for a small model and too few for a large one,
    and there are five: too few where the weights of near modules stay, or an evaluation gathers all of them. So there
    are as many as `parameters`.
    """
    made = deepcopy(config)
    for section in (made["zero_optimization"].get(key, {}) for key in ("offload_optimizer", "offload_param")):
        if section.get("device") == "nvme":
            section["nvme_path"] = str(folder)
            if "max_in_cpu" in section:
                section |= {"buffer_size": largest, "buffer_count": parameters}
    return made
