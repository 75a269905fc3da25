"""Cheaper scores and their accuracy: only the first tokens of each sample, or a share of the samples and a prediction.

The prediction is a ridge regression of a model's loss on free features: source, length, and how common the sample's
tokens are; and, if they were scored, on the loss of its first tokens. `trial` measures both against exact scores of a
few samples before all of them are scored.

Shapes: N samples, F features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum.tokens.tokens import IGNORED, Tokens

RIDGE = 1e-3
"""Weight of the ridge penalty relative to the number of samples: features are scaled to a deviation of one."""
AT_ONCE = 4096
"""Samples whose tokens are counted at a time."""
FREQUENCY_SAMPLES = 20_000
"""Samples used to estimate how common each token is."""
FEWEST = 50
"""Fewest scored samples for a prediction."""

Floats = NDArray[np.float32]


def chosen(ids_N: NDArray[np.int64], fraction: float) -> NDArray[np.bool_]:
    """Return which samples are scored: a share of all, by a hash of the sample id (SplitMix64's finalizer)."""
    with np.errstate(over="ignore"):
        hashed = ids_N.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        hashed = (hashed ^ (hashed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        hashed = (hashed ^ (hashed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        hashed ^= hashed >> np.uint64(31)
    return hashed < np.uint64(int(fraction * 2**64))


def predicted_losses(tokens: Tokens, losses: Mapping[str, Floats], first: Mapping[str, Floats]) -> dict[str, Floats]:
    """Return losses by model, with nan replaced by predictions; `first`: losses of the first tokens, if scored.

    Raises ValueError if too few samples were scored to fit the prediction.
    """
    features_NF = features(tokens, np.arange(len(tokens)))
    found = {}
    for name, loss_N in losses.items():
        scored = np.isfinite(loss_N)
        if scored.all():
            found[name] = loss_N
            continue
        if int(scored.sum()) < FEWEST:
            raise ValueError(
                f"fraction: only {int(scored.sum())} samples of slice {tokens.slice!r} are scored, too few to predict "
                f"the other {len(loss_N) - int(scored.sum())}: raise fraction, or remove it"
            )
        columns = [features_NF, *(loss[:, None] for loss in first.values())]
        found[name] = predict(np.concatenate(columns, axis=1), loss_N)
    return found


def predict(features_NF: NDArray[np.float32], loss_N: Floats) -> Floats:
    """Return `loss_N` with nan filled in by a ridge regression on the rest. O(N F^2)."""
    scored = np.isfinite(loss_N)
    x = features_NF[scored].astype(np.float64)
    mean_F, deviation_F = x.mean(axis=0), x.std(axis=0)
    deviation_F[deviation_F < 1e-9] = 1.0
    x = (x - mean_F) / deviation_F
    y = loss_N[scored].astype(np.float64)
    weights_F = np.linalg.solve(x.T @ x + RIDGE * len(x) * np.eye(x.shape[1]), x.T @ (y - y.mean()))
    result = loss_N.copy()
    result[~scored] = ((features_NF[~scored] - mean_F) / deviation_F) @ weights_F + y.mean()
    return result


def features(tokens: Tokens, ids_N: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return features of samples that need no model, float32 [N, F].

    One column per source, the log of the length, the mean information of the tokens (nats, from their frequency in the
    slice) and its deviation, and the share of distinct tokens.
    """
    rarity_V = _rarity(tokens)
    rows = np.zeros((len(ids_N), len(tokens.sources) + 4), dtype=np.float32)
    rows[np.arange(len(ids_N)), tokens.source_of(ids_N)] = 1.0
    rows[:, -4] = np.log(np.maximum(tokens.real_tokens(ids_N), 1))
    for start in range(0, len(ids_N), AT_ONCE):
        labels_BT = tokens.labels(ids_N[start : start + AT_ONCE])
        real_BT = labels_BT != IGNORED
        nats_BT = np.where(real_BT, rarity_V[np.where(real_BT, labels_BT, 0)], 0.0)
        count_B = np.maximum(real_BT.sum(axis=1), 1)
        mean_B = nats_BT.sum(axis=1) / count_B
        part = rows[start : start + AT_ONCE]
        part[:, -3] = mean_B
        part[:, -2] = np.sqrt(np.maximum((nats_BT**2).sum(axis=1) / count_B - mean_B**2, 0))
        ordered = np.sort(labels_BT, axis=1)
        part[:, -1] = ((np.diff(ordered, axis=1) != 0).sum(axis=1) + 1) / count_B
    return rows


def _rarity(tokens: Tokens) -> NDArray[np.float64]:
    """Return -log of each token's share, counted in evenly spaced samples, float64 [vocabulary]."""
    counts = np.ones(tokens.vocab_size)
    spread = np.unique(np.linspace(0, len(tokens) - 1, min(len(tokens), FREQUENCY_SAMPLES)).astype(np.int64))
    for start in range(0, len(spread), AT_ONCE):
        labels = tokens.labels(spread[start : start + AT_ONCE])
        counts += np.bincount(labels[labels != IGNORED], minlength=len(counts))
    result: NDArray[np.float64] = -np.log(counts / counts.sum())
    return result


@dataclass(frozen=True)
class CheapVariant:
    """How well a cheap score approximates the exact one."""

    name: str
    cost: float
    """Cost relative to the exact score, in forward passes."""
    rank_correlation: float
    """Spearman's rank correlation with the exact score."""
    agreement: float
    """Share of samples in the same bucket, with `buckets` equal buckets."""


def compare(name: str, cost: float, exact_N: NDArray[Any], cheap_N: NDArray[Any], buckets: int) -> CheapVariant:
    """Compare a cheap score with the exact one."""
    exact_rank, cheap_rank = _ranks(exact_N), _ranks(cheap_N)
    spread = exact_rank.std() * cheap_rank.std()
    correlation = float(((exact_rank - exact_rank.mean()) * (cheap_rank - cheap_rank.mean())).mean() / spread)
    same = (exact_rank * buckets // len(exact_N)) == (cheap_rank * buckets // len(cheap_N))
    return CheapVariant(name, cost, correlation, float(same.mean()))


def trial(
    tokens: Tokens,
    ids_N: NDArray[np.int64],
    losses: Mapping[str, NDArray[np.float32]],
    first_tokens: Sequence[int],
    fractions: Sequence[float],
    buckets: int,
) -> list[CheapVariant]:
    """Return how cheap variants compare on samples whose per-label losses, float32 [N, T] by model, are known.

    The score is the PD of a weak and a strong model, else the first model's loss.
    """
    counts_N = np.maximum(tokens.real_tokens(ids_N), 1)
    exact = {
        name: (losses_NT.sum(axis=1, dtype=np.float64) / counts_N).astype(np.float32)
        for name, losses_NT in losses.items()
    }
    score = score_of(exact)
    known_NF = features(tokens, ids_N)
    found = []
    total = int(counts_N.sum())
    for k in first_tokens:
        part_N = np.maximum(tokens.real_tokens(ids_N, k), 1)
        first = {n: _first_means(x, k, part_N) for n, x in losses.items()}
        found.append(compare(f"first_tokens={k}", int(part_N.sum()) / total, score, score_of(first), buckets))
    rng = np.random.default_rng(0)
    place_N = rng.permutation(len(ids_N))
    for fraction in fractions:
        hidden = place_N >= max(fraction * len(ids_N), FEWEST)
        for with_first in (None, *first_tokens[:1]):
            columns, cost = [known_NF], fraction
            if with_first is not None:
                k = with_first
                part_N = np.maximum(tokens.real_tokens(ids_N, k), 1)
                columns += [_first_means(x, k, part_N)[:, None] for x in losses.values()]
                cost += (1 - fraction) * int(part_N.sum()) / total
            whole = np.concatenate(columns, axis=1)
            predicted = {
                n: predict(whole, np.where(hidden, np.nan, loss).astype(np.float32)) for n, loss in exact.items()
            }
            name = f"fraction={fraction:g}" + (f" first_tokens={with_first}" if with_first is not None else "")
            found.append(compare(name, cost, score, score_of(predicted), buckets))
    return found


def _first_means(losses_NT: Floats, k: int, count_N: NDArray[np.int64]) -> Floats:
    result: Floats = (losses_NT[:, :k].sum(axis=1, dtype=np.float64) / count_N).astype(np.float32)
    return result


def score_of(losses: Mapping[str, Floats]) -> NDArray[Any]:
    """Return the PD of a weak and a strong model's losses, else the first model's loss."""
    if {"weak", "strong"} <= set(losses):
        pd: Floats = -np.expm1(losses["strong"] - losses["weak"])
        return pd
    return next(iter(losses.values()))


def _ranks(values_N: NDArray[Any]) -> NDArray[np.int64]:
    ranks = np.empty(len(values_N), dtype=np.int64)
    ranks[np.argsort(values_N, kind="stable")] = np.arange(len(values_N))
    return ranks
