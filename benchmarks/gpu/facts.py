"""What the check runs on: the card, versions, and what `auto` takes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from benchmarks.gpu.check import Check, Row
from benchmarks.gpu.published import peak_of
from benchmarks.gpu.step import train_settings
from benchmarks.report import machine
from train.backends import chosen_backends

PACKAGES = ("torch", "triton", "deepspeed", "transformers", "flash-attn", "liger-kernel", "numpy")


def checks(settings: Mapping[str, Any]) -> dict[str, Check]:
    """Return the one check."""
    device = torch.device(settings["device"])
    return {"device": lambda: _facts(settings, device)}


def _facts(settings: Mapping[str, Any], device: torch.device) -> Row:
    cuda = device.type == "cuda"
    if cuda and not torch.cuda.is_available():
        raise RuntimeError("no GPU here: torch.cuda.is_available() is False; --device cpu is a dry run")
    card = torch.cuda.get_device_name() if cuda else "CPU"
    run = train_settings(settings, settings["size"][0])
    return {
        "card": card,
        "cards": torch.cuda.device_count() if cuda else 1,
        "capability": list(torch.cuda.get_device_capability()) if cuda else None,
        "memory_bytes": torch.cuda.get_device_properties(0).total_memory if cuda else None,
        "cuda": torch.version.cuda,
        "nccl": list(_nccl()) if cuda else None,
        "peak_per_s": peak_of(card),
        "auto": chosen_backends(run),
        "machine": machine(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _nccl() -> tuple[int, ...]:
    version_of: Any = torch.cuda.nccl.version
    return tuple(version_of())


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
