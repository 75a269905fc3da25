"""What a run computes with: its attention backend and its kernels, and why `auto` took no faster ones."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from models import attention, kernels
from models.compiled_code import check_cache
from train.settings import TrainSettings


def chosen_backends(settings: TrainSettings) -> list[str]:
    """Return one line for the attention backend and one for the kernels.

    Raises ValueError if the configured attention backend cannot run on this machine, or if the folder of compiled code
    cannot be trusted.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    head_size, cuda = settings.model.width // settings.model.heads, device.type == "cuda"
    try:
        backend = attention.choose(settings.model.attention, head_size, dtype, device)
    except ValueError as error:
        raise ValueError(f"model.{error}") from error
    if settings.execution.compile or backend.name == "flex":
        check_cache()
    faster = attention.passed_over(head_size, dtype, device) if settings.model.attention == "auto" else {}
    liger = kernels.auto_problem(cuda=cuda) if settings.execution.kernels == "auto" and cuda else None
    taken = kernels.choose(settings.execution.kernels, device.type)
    where = f"{device.type}, {settings.precision}"
    return [
        _line("attention", backend.name, where, faster),
        _line("kernels", taken.name, where, {} if liger is None else {"liger": liger}),
    ]


def _line(part: str, taken: str, where: str, passed_over: Mapping[str, str]) -> str:
    reasons = "".join(f"; {name} {reason}" for name, reason in passed_over.items())
    return f"{part}: {taken} ({where}{reasons})"
