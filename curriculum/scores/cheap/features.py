"""Features of samples that need no model: source, length, token and pair frequencies, and which tokens occur.

Frequencies are counted in the slice itself, in two halves (even and odd sample ids): each half is described by the
counts of the other, so that no sample is made likely by its own tokens.

Shapes: N samples, B of them at a time, T labels, G sources, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curriculum.tokens.tokens import IGNORED, Tokens

AT_ONCE = 4096
"""Samples whose tokens are counted at a time."""
COUNTED = 20_000
"""Samples in which tokens and pairs are counted, evenly spaced over the slice."""
PLACES = 128
"""Columns that tokens are hashed into, to describe which of them a sample has."""
ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class _Counts:
    """Token and pair counts of half of the counted samples, as interpolated probabilities (Witten and Bell)."""

    share_V: NDArray[np.float64]
    before_V: NDArray[np.int64]
    """Occurrences of each token before a label."""
    kinds_V: NDArray[np.int64]
    """Different labels after each token."""
    pair_P: NDArray[np.int64]
    """Pairs, token * V + label, rising."""
    count_P: NDArray[np.int64]

    def nats(
        self, before_BT: NDArray[np.int64], labels_BT: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return -log p of labels from token counts, and from pair counts, both [B, T]."""
        share_BT = self.share_V[labels_BT]
        wanted_BT = before_BT * len(self.share_V) + labels_BT
        at_BT = np.minimum(np.searchsorted(self.pair_P, wanted_BT), len(self.pair_P) - 1)
        seen_BT = np.where(self.pair_P[at_BT] == wanted_BT, self.count_P[at_BT], 0)
        kinds_BT = self.kinds_V[before_BT]
        total_BT = self.before_V[before_BT] + kinds_BT
        pair_BT = np.where(total_BT > 0, (seen_BT + kinds_BT * share_BT) / np.maximum(total_BT, 1), share_BT)
        return -np.log(share_BT), -np.log(pair_BT)


class Features:
    """Describes samples of one slice. `of(ids)` may be called for any of them, in any order."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens, self._counts = tokens, _counts(tokens)

    def of(self, ids_N: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return features of samples, float32 [N, 2 G + 6 + PLACES].

        One column per source; the log of the length; mean and deviation of the labels' information (nats) from token
        counts and from pair counts; the share of distinct tokens; the information from pairs once more for every
        source, so that each has its own slope; and the square root of the share of labels in each of PLACES groups of
        tokens.
        """
        parts = [self._of(ids_N[start : start + AT_ONCE]) for start in range(0, len(ids_N), AT_ONCE)]
        return np.concatenate(parts) if parts else self._of(ids_N)

    def _of(self, ids_B: NDArray[np.int64]) -> NDArray[np.float32]:
        tokens = self._tokens
        sources = len(tokens.sources)
        part = np.zeros((len(ids_B), 2 * sources + 6 + PLACES), dtype=np.float32)
        labels_BT = tokens.labels(ids_B)
        real_BT = labels_BT != IGNORED
        count_B = np.maximum(real_BT.sum(axis=1), 1)
        known_BT = np.where(real_BT, labels_BT, 0)
        before_BT = np.maximum(tokens.sample(ids_B)[:, :-1], 0)
        single_BT, pair_BT = np.zeros((2, *labels_BT.shape))
        for half in (0, 1):
            mine = ids_B % 2 == half
            single_BT[mine], pair_BT[mine] = self._counts[1 - half].nats(before_BT[mine], known_BT[mine])
        source_B = tokens.source_of(ids_B)
        part[np.arange(len(ids_B)), source_B] = 1.0
        part[:, sources] = np.log(count_B)
        for column, nats_BT in ((sources + 1, single_BT), (sources + 3, pair_BT)):
            mean_B = np.where(real_BT, nats_BT, 0).sum(axis=1) / count_B
            square_B = np.where(real_BT, nats_BT**2, 0).sum(axis=1) / count_B
            part[:, column], part[:, column + 1] = mean_B, np.sqrt(np.maximum(square_B - mean_B**2, 0))
        distinct_B = (np.diff(np.sort(labels_BT, axis=1), axis=1) != 0).sum(axis=1) + 1
        part[:, sources + 5] = distinct_B / count_B
        part[np.arange(len(ids_B)), sources + 6 + source_B] = part[:, sources + 3]
        group_BT = np.arange(len(ids_B))[:, None] * PLACES + hashed(known_BT, PLACES)
        held = np.bincount(group_BT[real_BT], minlength=len(ids_B) * PLACES).reshape(-1, PLACES)
        part[:, 2 * sources + 6 :] = np.sqrt(held / count_B[:, None])
        return part


def _counts(tokens: Tokens) -> tuple[_Counts, _Counts]:
    """Count tokens and pairs in the even and in the odd samples among COUNTED evenly spaced ones."""
    couples = len(tokens) // 2
    spread = 2 * np.unique(np.linspace(0, couples - 1, min(couples, COUNTED // 2)).astype(np.int64))
    size = tokens.vocab_size
    found = []
    for half in (0, 1):
        pairs = [np.zeros(0, dtype=np.int64)]
        mine = spread + half
        for start in range(0, len(mine), AT_ONCE):
            ids_B = mine[start : start + AT_ONCE]
            labels_BT, before_BT = tokens.labels(ids_B), tokens.sample(ids_B)[:, :-1]
            pairs.append((before_BT * size + labels_BT)[labels_BT != IGNORED])
        pair_P, count_P = np.unique(np.concatenate(pairs), return_counts=True)
        label = np.bincount(pair_P % size, count_P, size) + 1
        before_V = np.bincount(pair_P // size, count_P, size).astype(np.int64)
        kinds_V = np.bincount(pair_P // size, minlength=size)
        if not len(pair_P):  # a slice of one sample
            pair_P, count_P = np.full(1, -1), np.zeros(1, dtype=np.int64)
        found.append(_Counts(label / label.sum(), before_V, kinds_V, pair_P, count_P))
    return found[0], found[1]


def hashed(value_N: NDArray[np.int64], places: int) -> NDArray[np.int64]:
    """Return a fixed pseudo-random place of each value."""
    with np.errstate(over="ignore"):
        mixed = (value_N.astype(np.uint64) + np.uint64(1)) * ODD
    return ((mixed >> np.uint64(32)) % np.uint64(places)).astype(np.int64)
