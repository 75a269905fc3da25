"""Choose the implementation of the fused functions."""

from __future__ import annotations

from functools import cache

import torch

from models.kernels.interface import Kernels
from models.optional import import_problem


def liger_problem(*, cuda: bool) -> str | None:
    """Return why Liger's kernels cannot run on this machine, None if they can."""
    if not cuda:
        return "needs a CUDA device, but none was found"
    return import_problem("liger-kernel", "liger_kernel", "models.kernels.liger")


def check(name: str, *, cuda: bool) -> None:
    """Raise ValueError, with a fix, if the kernels of this name cannot run on this machine."""
    problem = liger_problem(cuda=cuda) if name == "liger" else None
    if problem is not None:
        install = ": pip install 'pdpc[gpu]', or use" if cuda else ": use"
        raise ValueError(f"execution.kernels=liger {problem}{install} execution.kernels=auto or plain")


@cache
def choose(name: str, device_type: str) -> Kernels:
    """Return the kernels of this name (execution.KERNELS) for a device type. Raises ValueError as `check` does."""
    cuda = device_type == "cuda"
    check(name, cuda=cuda)
    if name == "liger" or (name == "auto" and auto_problem(cuda=cuda) is None):
        from models.kernels import liger

        return liger.KERNELS
    from models.kernels import plain

    return plain.KERNELS


def auto_problem(*, cuda: bool) -> str | None:
    """Return why `auto` does not take Liger's kernels, None if it does."""
    if cuda and not torch.version.cuda:
        return "was not tested on this kind of GPU"
    return liger_problem(cuda=cuda)
