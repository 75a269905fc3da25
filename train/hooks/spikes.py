"""Loss spikes: losses far above the preceding ones. The idea is from OLMo-core's SkipStepOptimizer."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable


class SpikeDetector:
    """Detects a loss more than `sigma` standard deviations above the mean of the last `window` losses.

    Until the window is full nothing is a spike. A spike enters the window clipped to the limit: a single one hardly
    moves the mean, and losses that stay at a new level count as normal after a few. O(window).
    """

    def __init__(self, sigma: float, window: int, losses: Iterable[float] = ()) -> None:
        self.sigma = sigma
        self.losses: deque[float] = deque(losses, maxlen=window)

    def limit(self) -> float:
        """Return the loss above which the next one is a spike; infinite until the window is full."""
        count = len(self.losses)
        if count < (self.losses.maxlen or 0):
            return math.inf
        mean = math.fsum(self.losses) / count
        variance = math.fsum((loss - mean) ** 2 for loss in self.losses) / (count - 1)
        return mean + self.sigma * math.sqrt(variance)

    def add(self, loss: float) -> bool:
        """Add the next loss (finite); return whether it is a spike. A constant loss is never a spike."""
        limit = self.limit()
        self.losses.append(min(loss, limit))
        return loss > limit
