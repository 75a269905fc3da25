"""Device values that the host reads later."""

from __future__ import annotations

import torch
from torch import Tensor


class Later:
    """Values that are copied to the host as soon as the device has computed them; nothing waits before `read`."""

    def __init__(self, values: Tensor) -> None:
        self._ready: torch.cuda.Event | None = None
        if values.device.type != "cuda":
            self._values = values
            return
        self._values = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        self._values.copy_(values, non_blocking=True)
        self._ready = torch.cuda.Event()
        self._ready.record()

    def read(self) -> list[float]:
        """Return the values, once the device has computed them."""
        if self._ready is not None:
            self._ready.synchronize()
        return [float(value) for value in self._values.tolist()]
