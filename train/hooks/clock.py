"""Marks in time: on the host's clock, or on the device's, which is read when nobody waits for it."""

from __future__ import annotations

import time

import torch

Mark = float | torch.cuda.Event


class Clock:
    """Takes marks and tells the seconds between two of them.

    On CUDA a mark is an event in the stream of the kernels: taking one costs microseconds and waits for nothing; its
    time is read at a logging step, when the device has been waited for anyway.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"

    def mark(self) -> Mark:
        """Return this moment: on CUDA, that at which the work given to the device so far is done."""
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def over(self, mark: Mark) -> bool:
        """Tell whether the moment has come: on CUDA, whether its time can be read without waiting for the device."""
        return isinstance(mark, float) or bool(mark.query())

    def between(self, first: Mark, second: Mark) -> float:
        """Return the seconds from one mark to another."""
        if isinstance(first, float):
            assert isinstance(second, float)
            return second - first
        assert isinstance(second, torch.cuda.Event)
        second.synchronize()
        return first.elapsed_time(second) / 1000.0
