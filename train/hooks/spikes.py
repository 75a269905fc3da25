"""Loss spikes: losses far above those just before. The idea is OLMo-core's SkipStepOptimizer."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable


class SpikeDetector:
    """Tells a loss that lies more than `sigma` standard deviations above the mean of the last `window` losses.

    Until the window is full nothing is a spike. A spike enters the window at the height from which on it is one: a
    single one hardly moves the mean, and losses that stay on a new level are taken for normal after a few. O(window).
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
        """Take in the next loss (finite); tell whether it is a spike. Losses that are all the same know no spike."""
        limit = self.limit()
        self.losses.append(min(loss, limit))
        return loss > limit
