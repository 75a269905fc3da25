"""Features of samples that need no model: source, length, and how predictable the tokens are by their frequencies.

Frequencies of tokens and pairs are counted in the slice itself, in two halves (even and odd sample ids): each
half is described by the counts of the other, so that no sample is made likely by its own tokens.

Shapes: N samples, B of them at a time, T labels, G sources, V vocabulary, P different pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from curriculum.tokens.tokens import IGNORED, Tokens

AT_ONCE = 4096
"""Samples whose tokens are counted at a time."""
COUNTED = 20_000
"""Samples in which tokens are counted, evenly spaced over the slice."""
ORDERS = (1, 2)
"""Tokens that are counted together: single ones and pairs. Triples added nothing on a corpus of 90,000 tokens."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


class Features:
    """Describes samples of one slice. `of(ids)` may be called for any of them, in any order."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens, self._counts = tokens, _counts(tokens)

    def of(self, ids_N: Ints, first: int | None = None) -> NDArray[np.float32]:
        """Return features of samples, float32 [N, 3 G + 6], or with 2 more columns.

        One column per source; the log of the length and the share of distinct tokens; for every one of ORDERS, mean and
        deviation of the labels' information (nats) from these counts, and the mean once more for every source, so that
        each has its own slope. With `first`, also the means over the first labels: by them a prediction from the loss
        of the first labels knows how unusual they are for the sample.
        """
        parts = [self._of(ids_N[start : start + AT_ONCE], first) for start in range(0, len(ids_N), AT_ONCE)]
        return np.concatenate(parts) if parts else self._of(ids_N, first)

    def _of(self, ids_B: Ints, first: int | None) -> NDArray[np.float32]:
        inputs_BT, labels_BT = _inputs_and_labels(self._tokens, ids_B)
        real_BT = labels_BT != IGNORED
        count_B = np.maximum(real_BT.sum(axis=1), 1)
        source_BG = np.eye(len(self._tokens.sources))[self._tokens.source_of(ids_B)]
        distinct_B = (np.diff(np.sort(labels_BT, axis=1), axis=1) != 0).sum(axis=1) + 1
        columns = [source_BG, np.log(count_B)[:, None], (distinct_B / count_B)[:, None]]
        nats_OBT = np.zeros((len(ORDERS), *labels_BT.shape))
        for half in (0, 1):
            mine = ids_B % 2 == half
            nats_OBT[:, mine] = _nats(self._counts[1 - half], inputs_BT[mine], np.where(real_BT, labels_BT, 0)[mine])
        for nats_BT in np.where(real_BT, nats_OBT, 0):
            mean_B = nats_BT.sum(axis=1) / count_B
            square_B = (nats_BT**2).sum(axis=1) / count_B
            deviation_B = np.sqrt(np.maximum(square_B - mean_B**2, 0))
            columns += [mean_B[:, None], deviation_B[:, None], source_BG * mean_B[:, None]]
            if first is not None:
                begun_B = np.maximum(real_BT[:, :first].sum(axis=1), 1)
                columns.append((nats_BT[:, :first].sum(axis=1) / begun_B)[:, None])
        return np.concatenate(columns, axis=1).astype(np.float32)


@dataclass(frozen=True)
class _Counts:
    """What follows each context of a length, in half of the counted samples."""

    context_P: Ints
    """Different contexts, rising."""
    total_P: Ints
    kinds_P: Ints
    """Different labels after each context."""
    joint_P: Ints
    """Different contexts with their label, rising."""
    count_P: Ints


def _inputs_and_labels(tokens: Tokens, ids_B: Ints) -> tuple[Ints, Ints]:
    return np.maximum(tokens.sample(ids_B)[:, :-1], 0), tokens.labels(ids_B)


def _contexts(inputs_BT: Ints, length: int, size: int) -> Ints:
    """Return the last `length` inputs before each label as one number, [B, T]; fewer at the start of a sample."""
    key_BT = np.zeros_like(inputs_BT)
    for back in range(length):
        earlier_BT = np.full_like(inputs_BT, size)  # no token
        earlier_BT[:, back:] = inputs_BT[:, : inputs_BT.shape[1] - back]
        key_BT = key_BT * (size + 1) + earlier_BT
    return key_BT


def _nats(counts: list[_Counts], inputs_BT: Ints, labels_BT: Ints) -> Floats:
    """Return -log p of labels by each of ORDERS, [O, B, T], interpolated with the order below (Witten and Bell, 1991).

    The order below single tokens is the uniform distribution.
    """
    size = len(counts[0].joint_P)
    share_BT = np.full(labels_BT.shape, 1.0 / max(1, size))
    found = []
    for length, own in enumerate(counts):
        context_BT = _contexts(inputs_BT, length, size)
        total_BT = _found(own.context_P, own.total_P, context_BT)
        kinds_BT = _found(own.context_P, own.kinds_P, context_BT)
        seen_BT = _found(own.joint_P, own.count_P, context_BT * size + labels_BT)
        mixed_BT = (seen_BT + kinds_BT * share_BT) / np.maximum(total_BT + kinds_BT, 1)
        share_BT = np.where(total_BT > 0, mixed_BT, share_BT)
        found.append(-np.log(share_BT))
    return np.stack(found)


def _found(keys_P: Ints, values_P: Ints, wanted_BT: Ints) -> Ints:
    """Return the values of keys, 0 for those that are not there."""
    if not len(keys_P):
        return np.zeros_like(wanted_BT)
    at_BT = np.minimum(np.searchsorted(keys_P, wanted_BT), len(keys_P) - 1)
    result: Ints = np.where(keys_P[at_BT] == wanted_BT, values_P[at_BT], 0)
    return result


def _counts(tokens: Tokens) -> tuple[list[_Counts], list[_Counts]]:
    """Count in the even and in the odd samples among COUNTED evenly spaced ones, one entry per order."""
    couples = len(tokens) // 2
    spread = 2 * np.unique(np.linspace(0, couples - 1, min(couples, COUNTED // 2)).astype(np.int64))
    return _counts_of(tokens, spread), _counts_of(tokens, spread + 1)


def _counts_of(tokens: Tokens, ids_N: Ints) -> list[_Counts]:
    size = tokens.vocab_size
    joint: list[list[Ints]] = [[np.arange(size) if order == 1 else np.zeros(0, dtype=np.int64)] for order in ORDERS]
    for start in range(0, len(ids_N), AT_ONCE):
        inputs_BT, labels_BT = _inputs_and_labels(tokens, ids_N[start : start + AT_ONCE])
        real_BT = labels_BT != IGNORED
        for order, keys in zip(ORDERS, joint, strict=True):
            keys.append((_contexts(inputs_BT, order - 1, size) * size + labels_BT)[real_BT])
    found = []
    for keys in joint:
        joint_P, count_P = np.unique(np.concatenate(keys), return_counts=True)
        context_P, first_P, kinds_P = np.unique(joint_P // size, return_index=True, return_counts=True)
        total_P = np.add.reduceat(count_P, first_P) if len(first_P) else count_P
        found.append(_Counts(context_P, total_P, kinds_P, joint_P, count_P))
    return found
