"""Choose the implementation of the fused functions."""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch

from models.kernels.interface import Kernels


def check(name: str, *, cuda: bool) -> None:
    """Raise ValueError, with a fix, if the kernels of this name cannot run on this machine."""
    if name != "liger":
        return
    if not cuda:
        raise ValueError(
            "execution.kernels=liger needs a CUDA device, but none was found: use execution.kernels=auto or plain"
        )
    if find_spec("liger_kernel") is None:
        raise ValueError(
            "execution.kernels=liger needs the package liger-kernel, which is not installed: "
            "pip install 'pdpc[gpu]', or use execution.kernels=auto or plain"
        )


@cache
def choose(name: str, device_type: str) -> Kernels:
    """Return the kernels of this name (execution.KERNELS) for a device type. Raises ValueError as `check` does."""
    cuda = device_type == "cuda"
    check(name, cuda=cuda)
    if name == "liger" or (name == "auto" and cuda and torch.version.cuda and find_spec("liger_kernel") is not None):
        from models.kernels import liger

        return liger.KERNELS
    from models.kernels import plain

    return plain.KERNELS
