"""DeepSpeed's update of the weights without a question to the device.

In every update DeepSpeed 0.19.8 asks whether the gradient's norm is finite and, in bf16, whether it is to be clipped.
The host then waits until the device has gone through the whole step, and the device for the host's next kernels.
Neither answer is needed there: AdamW leaves out a step that must not move the weights by itself (`Engine.step`), and
clipping by a factor of 1 changes nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


@contextmanager
def unasked(optimizer: Any) -> Iterator[None]:
    """Let a DeepSpeed optimizer take everything for finite inside, and clip on the device."""
    module = sys.modules[type(optimizer).__module__]
    instead = {"is_invalid_grad_norm": _never, "clip_tensors_by_global_norm": _clip}
    theirs = {name: getattr(module, name) for name in instead if hasattr(module, name)}
    for name in theirs:
        setattr(module, name, instead[name])
    try:
        yield
    finally:
        for name, function in theirs.items():
            setattr(module, name, function)


def _never(_norm: object) -> bool:
    """Stand for `is_invalid_grad_norm`, which turns a tensor of the device into a bool."""
    return False


def _clip(input_tensors: Sequence[Tensor], max_norm: float, global_norm: Tensor, mpu: object = None) -> Tensor:
    """Stand for `clip_tensors_by_global_norm`, which asks whether there is anything to clip."""
    torch._foreach_mul_(list(input_tensors), (max_norm / (global_norm + 1e-6)).clamp(max=1.0))
    return global_norm
