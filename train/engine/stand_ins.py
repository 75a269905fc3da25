"""Replacements for DeepSpeed functions while it starts and while it updates the weights; patches.py lists each."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from train.engine.patches import ENGINE, OPTIMIZER3, OPTIMIZER12, START, TABLE, Row, check


@contextmanager
def replaced(owner: Any, name: str, instead: Any) -> Iterator[None]:
    """Replace a function of `owner`, a module or an object with a method of its class, inside the block."""
    before = vars(owner).get(name)
    setattr(owner, name, instead)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


@contextmanager
def light_start() -> Iterator[None]:
    """Start DeepSpeed without loading torch's compiler and without collecting memory figures."""
    check(row for row in TABLE if row.where is START)
    from deepspeed.runtime import bf16_optimizer, compiler

    with (
        replaced(compiler, "compile", lambda: compiler.dummy_decorator),
        replaced(bf16_optimizer, "see_memory_usage", lambda message, force=False: None),
    ):
        yield


def light_adamw(*arguments: Any, **more: Any) -> torch.optim.AdamW:
    """Return torch's AdamW that works without loading torch's compiler (1.8 s).

    torch marks the methods of optimizers so that a compiled function around them does not compile them too, and loads
    the compiler for the mark. Here nothing around them is compiled.
    """
    for method in (Optimizer.add_param_group, Optimizer.zero_grad):
        plain = inspect.unwrap(method)
        setattr(plain, "__dynamo_disable", plain)  # where torch._compile keeps the marked function
    adamw = torch.optim.AdamW(*arguments, **more)
    update = MethodType(inspect.unwrap(type(adamw).step), adamw)
    adamw.step = torch.no_grad()(update)  # type: ignore[method-assign]  # as the wrapper, unless it is differentiable
    return adamw


class KnownNorm:
    """DeepSpeed's weight update without a host-device sync, and without computing the gradient norm again.

    In every update DeepSpeed reads from the device whether the norm is finite and, in bf16, whether to clip. Neither is
    needed: AdamW itself skips a step that must not change the weights (`Engine.step`), and clipping by 1 changes
    nothing.
    """

    def __init__(self, engine: Any, rows: Iterable[Row]) -> None:
        self._engine = engine
        self._norm = torch.ones(())
        stand_ins = {
            "is_invalid_grad_norm": lambda norm: False,
            "clip_tensors_by_global_norm": _clip,
            "get_global_norm_of_tensors": lambda *_, **__: self._norm,
            "scaled_global_norm": lambda norm_type=2: self._norm,
            "_get_norm_groups": lambda: [self._norm],
            "clip_fp32_gradients": self._clip_parameters,
        }
        instances = {ENGINE: engine, OPTIMIZER12: engine.optimizer, OPTIMIZER3: engine.optimizer}
        self._places = [
            (instances.get(row.owner) or pkgutil.resolve_name(row.owner), row.name, stand_ins[row.name])
            for row in rows
            if row.name in stand_ins
        ]

    @contextmanager
    def inside(self, norm: Tensor) -> Iterator[None]:
        """Let DeepSpeed treat every norm as finite and clip by `norm`, a scalar on the device of its gradients."""
        self._norm = norm
        with ExitStack() as stack:
            for place in self._places:
                stack.enter_context(replaced(*place))
            yield

    def _clip_parameters(self) -> None:
        gradients = [parameter.grad for parameter in self._engine.module.parameters() if parameter.grad is not None]
        _clip(gradients, self._engine.gradient_clipping(), self._norm)


def _clip(
    input_tensors: Sequence[Tensor], max_norm: float, global_norm: Tensor, mpu: object = None, eps: float = 1e-6
) -> Tensor:
    torch._foreach_mul_(list(input_tensors), (max_norm / (global_norm + eps)).clamp(max=1.0))
    return global_norm
