"""DeepSpeed's update of the weights without a question to the device, and without a norm of its own.

In every update DeepSpeed 0.19.8 asks whether the gradient's norm is finite and, in bf16, whether it is to be clipped.
The host then waits until the device has gone through the whole step, and the device for the host's next kernels.
Neither answer is needed there: AdamW leaves out a step that must not move the weights by itself (`Engine.step`), and
clipping by a factor of 1 changes nothing. The norm itself is known by then, the guards have looked at it: DeepSpeed
takes it over, in place of a second pass over all gradients and a second sum over the ranks.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from train.engine.replaced import replaced


@contextmanager
def unasked(engine: Any, norm: Tensor) -> Iterator[None]:
    """Let a DeepSpeedEngine take everything for finite inside, and clip by this `norm`, where its gradients are."""
    optimizer = engine.optimizer
    module = sys.modules[type(optimizer).__module__]

    def known(*_: object, **__: object) -> Tensor:
        return norm

    def clip_parameters() -> None:
        gradients = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
        _clip(gradients, engine.gradient_clipping(), norm)

    with ExitStack() as stack:
        for owner, name, instead in (
            (module, "is_invalid_grad_norm", _never),
            (module, "clip_tensors_by_global_norm", _clip),  # BF16_Optimizer
            (module, "get_global_norm_of_tensors", known),  # BF16_Optimizer
            (optimizer, "scaled_global_norm", known),  # ZeRO 1 and 2
            (optimizer, "_get_norm_groups", lambda: [norm]),  # ZeRO 3
            (engine, "clip_fp32_gradients", clip_parameters),  # stage 0 in fp32
        ):
            if hasattr(owner, name):
                stack.enter_context(replaced(owner, name, instead))
        yield


def _never(_norm: object) -> bool:
    """Stand for `is_invalid_grad_norm`, which turns a tensor of the device into a bool."""
    return False


def _clip(input_tensors: Sequence[Tensor], max_norm: float, global_norm: Tensor, mpu: object = None) -> Tensor:
    """Stand for `clip_tensors_by_global_norm`, which asks whether there is anything to clip."""
    torch._foreach_mul_(list(input_tensors), (max_norm / (global_norm + 1e-6)).clamp(max=1.0))
    return global_norm
