"""Counts the host-device syncs of a step, on the CPU, where they cost nothing."""

from __future__ import annotations

import traceback
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode


class Questions(TorchDispatchMode):
    """Records operations that make the host wait for its GPU: reads of values, and data-dependent shapes."""

    ASKING = ("_local_scalar_dense", "nonzero", "equal.default", "masked_select", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(function) for name in self.ASKING):
            frames = [frame for frame in traceback.extract_stack()[:-1] if "/torch/" not in frame.filename]
            self.found.append(f"{function} in {frames[-1].filename}:{frames[-1].lineno}")
        return function(*args, **(kwargs or {}))
