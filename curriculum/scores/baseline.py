"""Losses of models that know nothing: the uniform one, and the one that only knows how common each token is."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curriculum.tokens.tokens import IGNORED, Tokens

MOST_SAMPLES = 20_000
"""Samples that token frequencies are counted in, evenly spaced over the slice."""
AT_ONCE = 4096
FEW_SAMPLES = 20
"""A slice with fewer samples is compared with the uniform model only."""


@dataclass(frozen=True)
class Baselines:
    """Losses in nats per token."""

    vocab_size: int
    unigram: float | None
    """Loss of the unigram model; None if the slice is too small to estimate it."""

    @property
    def uniform(self) -> float:
        """Loss of a model for which every token is equally likely."""
        return math.log(self.vocab_size)

    def shortfall(self, loss: float) -> str | None:
        """Say which of the two a model with this loss is no better than; None if it is better than both."""
        known = f"uniform, ln({self.vocab_size:,}), {self.uniform:.3f}"
        if self.unigram is not None:
            known = f"unigram {self.unigram:.3f}, {known}"
        if loss >= self.uniform:
            return f"no better than guessing: {loss:.3f} nats per token ({known})"
        if self.unigram is not None and loss >= self.unigram:
            return f"no better than token frequencies: {loss:.3f} nats per token ({known})"
        return None

    def __str__(self) -> str:
        unigram = "" if self.unigram is None else f"token frequencies (unigram) {self.unigram:.3f}, "
        return f"{unigram}guessing (uniform) {self.uniform:.3f}"


def baselines_of(tokens: Tokens) -> Baselines:
    """Return the baselines of a slice, as means over samples. O(min(N, MOST_SAMPLES)).

    The unigram model is fitted on every other sample, with one added to each count, and evaluated on the rest, and the
    other way round: fitted on the text that it is evaluated on, a small slice would make it look better than it is.
    """
    if len(tokens) < FEW_SAMPLES:
        return Baselines(tokens.vocab_size, None)
    ids_N = np.unique(np.linspace(0, len(tokens) - 1, min(len(tokens), MOST_SAMPLES)).astype(np.int64))
    halves = (ids_N[::2], ids_N[1::2])
    counts = [_counts(tokens, half) for half in halves]
    total = sum(_sum_of_means(tokens, half, other) for half, other in zip(halves, reversed(counts), strict=True))
    return Baselines(tokens.vocab_size, total / len(ids_N))


def _counts(tokens: Tokens, ids_N: NDArray[np.int64]) -> NDArray[np.float64]:
    counts_V = np.ones(tokens.vocab_size)
    for start in range(0, len(ids_N), AT_ONCE):
        labels_BT = tokens.labels(ids_N[start : start + AT_ONCE])
        counts_V += np.bincount(labels_BT[labels_BT != IGNORED], minlength=tokens.vocab_size)
    return counts_V


def _sum_of_means(tokens: Tokens, ids_N: NDArray[np.int64], counts_V: NDArray[np.float64]) -> float:
    """Return the sum of the samples' mean losses under token counts."""
    nats_V = -np.log(counts_V / counts_V.sum())
    total = 0.0
    for start in range(0, len(ids_N), AT_ONCE):
        labels_BT = tokens.labels(ids_N[start : start + AT_ONCE])
        real_BT = labels_BT != IGNORED
        nats_BT = np.where(real_BT, nats_V[np.where(real_BT, labels_BT, 0)], 0.0)
        total += float((nats_BT.sum(axis=1) / np.maximum(real_BT.sum(axis=1), 1)).sum())
    return total
