"""Time marks: on the host's clock, or on the device's, which is read only when that needs no sync."""

from __future__ import annotations

import time

import torch

Mark = float | torch.cuda.Event


class Clock:
    """Takes marks and returns the seconds between two of them.

    On CUDA a mark is an event in the kernels' stream: recording one costs microseconds and does not block; its time is
    read at a logging step, which syncs with the device anyway.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"

    def mark(self) -> Mark:
        """Return a mark for now: on CUDA, for when the work queued so far is done."""
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def over(self, mark: Mark) -> bool:
        """Return whether the mark was reached: on CUDA, whether its time can be read without waiting for the device."""
        return isinstance(mark, float) or bool(mark.query())

    def between(self, first: Mark, second: Mark) -> float:
        """Return the seconds from one mark to another."""
        if isinstance(first, float):
            assert isinstance(second, float)
            return second - first
        assert isinstance(second, torch.cuda.Event)
        second.synchronize()
        return first.elapsed_time(second) / 1000.0
