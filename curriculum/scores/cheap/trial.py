"""What cheaper scores lose, measured on samples whose exact losses are known.

An order compares a sample with others of its source, so a cheap score is judged there: Spearman's rank correlation with
the exact score, and the share of samples in the same bucket, inside every source. Costs are shares of the exact score's
forward passes.

Shapes: N samples, T labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum.scores.cheap.features import Features
from curriculum.scores.cheap.prediction import FEWEST, Prediction
from curriculum.tokens.tokens import Tokens

Floats = NDArray[np.float32]
COSTS = (0.01, 0.03, 0.1, 0.25, 0.5)
"""Shares of the exact cost that are tried."""
ENOUGH = 0.95
"""Rank correlation inside sources that a recommended score reaches."""
FEW_IN_SOURCE = 20
"""Fewest samples of a source that are compared; sources with fewer are left out."""


@dataclass(frozen=True)
class CheapVariant:
    """How well a cheap score approximates the exact one, inside sources."""

    name: str
    """The settings that choose it."""
    cost: float
    """Share of the exact score's cost."""
    rank_correlation: float
    """Spearman's rank correlation with the exact score inside sources: mean weighted by samples."""
    agreement: float
    """Share of samples in the same bucket, with `buckets` equal buckets in every source."""
    worst: float = 1.0
    """Rank correlation in the source where it is lowest."""
    worst_source: str = ""


@dataclass(frozen=True)
class Stand:
    """Models that a score is computed with: the exact ones, or smaller ones in their place."""

    name: str
    """Settings that choose them; empty for the exact models."""
    losses: Mapping[str, Floats]
    """Losses per label, [N, T], by the name of the model, or of the model that it replaces."""
    cost: float = 1.0
    """Cost relative to the exact models."""


def compare(
    name: str, cost: float, exact_N: NDArray[Any], cheap_N: NDArray[Any], buckets: int, sources: Sources
) -> CheapVariant:
    """Compare a cheap score with the exact one inside every source."""
    found: list[tuple[int, float, float, str]] = []
    for place, source in enumerate(sources.names):
        mine = sources.of_N == place
        count = int(mine.sum())
        if count < FEW_IN_SOURCE:
            continue
        exact, cheap = _ranks(exact_N[mine]), _ranks(cheap_N[mine])
        same = (exact * buckets // count) == (cheap * buckets // count)
        centred = exact - exact.mean()
        correlation = float((centred * (cheap - cheap.mean())).mean() / centred.var())
        found.append((count, correlation, float(same.mean()), source))
    if not found:
        raise ValueError(f"no source has {FEW_IN_SOURCE} of the samples: raise trial")
    counts, correlations, same_s, _ = zip(*found, strict=True)
    worst = min(found, key=lambda row: row[1])
    mean = float(np.average(correlations, weights=counts))
    return CheapVariant(name, cost, mean, float(np.average(same_s, weights=counts)), worst[1], worst[3])


@dataclass(frozen=True)
class Sources:
    """The source of each sample, as an index into `names`."""

    names: list[str]
    of_N: NDArray[np.int64]


def trial(
    tokens: Tokens, ids_N: NDArray[np.int64], stands: Sequence[Stand], buckets: int, costs: Sequence[float] = COSTS
) -> list[CheapVariant]:
    """Return how cheap variants compare with the exact score on samples, cheapest first.

    `stands`: the exact models first. The score is the PD of a weak and a strong model, else the first model's loss. For
    every cost: the first tokens, a fraction and a prediction, and both with half of the cost each, under every stand;
    and the other stands with whole samples. A prediction is fitted to as many samples as the fraction of the slice has,
    but at most half of the trial's, and never to a sample that it predicts; a fraction is left out if it has too few.
    """
    trying = _Trial(tokens, ids_N, stands[0], buckets)
    found = [trying.whole(stand) for stand in stands[1:]]
    for stand in stands:
        for cost in costs:
            share = cost / stand.cost
            if share >= 1:
                continue
            found += trying.first_tokens(stand, share)
            found += trying.fraction(stand, share, None)
            found += trying.fraction(stand, share / 2, share / 2)
    unlike = {way.name: way for way in found}  # two costs may round to the same number of tokens
    return sorted(unlike.values(), key=lambda way: way.cost)


def recommended(found: Sequence[CheapVariant]) -> CheapVariant | None:
    """Return the cheapest variant whose rank correlation inside sources is ENOUGH."""
    good = [way for way in found if way.rank_correlation >= ENOUGH]
    return min(good, key=lambda way: way.cost) if good else None


class _Trial:
    """Samples with exact scores, and the variants' scores of the same samples."""

    def __init__(self, tokens: Tokens, ids_N: NDArray[np.int64], exact: Stand, buckets: int) -> None:
        self._tokens, self._ids_N, self._buckets = tokens, ids_N, buckets
        self._counts_N = np.maximum(tokens.real_tokens(ids_N), 1)
        self._sources = Sources(list(tokens.sources), tokens.source_of(ids_N))
        self._exact_N = score_of(self._means(exact, tokens.seq_len))
        self._describe = Features(tokens)
        self._order_N = np.random.default_rng(0).permutation(len(ids_N))

    def whole(self, stand: Stand) -> CheapVariant:
        """Score whole samples with other models."""
        return self._compared(stand.name, stand.cost, self._means(stand, self._tokens.seq_len))

    def first_tokens(self, stand: Stand, share: float) -> list[CheapVariant]:
        """Score the first tokens of every sample; none if the share is less than half a token."""
        k = round(share * self._tokens.seq_len)
        if k < 1:
            return []
        return [self._compared(_named(stand, f"first_tokens={k}"), self._share(k) * stand.cost, self._means(stand, k))]

    def fraction(self, stand: Stand, fraction: float, share: float | None) -> list[CheapVariant]:
        """Score a fraction and predict the rest, also from the first tokens if `share` is given."""
        words, cost = f"fraction={fraction:.3g}", fraction
        half = len(self._ids_N) // 2
        fitted = min(round(fraction * len(self._tokens)), half)
        if fitted < FEWEST:
            return []
        if share is None:
            known_NF = self._describe.of(self._ids_N)
        else:
            k = round(share * self._tokens.seq_len)
            if k < 1:
                return []
            words, cost = f"{words} first_tokens={k}", cost + self._share(k)
            first = [loss_N[:, None] for loss_N in self._means(stand, k).values()]
            known_NF = np.concatenate([self._describe.of(self._ids_N, k), *first], axis=1)
        exact = self._means(stand, self._tokens.seq_len)
        found = {name: loss_N.copy() for name, loss_N in exact.items()}
        for mine, other in ((self._order_N[:half], self._order_N[half:]), (self._order_N[half:], self._order_N[:half])):
            hidden, learnt = mine[round(fraction * len(mine)) :], other[:fitted]
            for name, loss_N in exact.items():
                found[name][hidden] = Prediction.fit(known_NF[learnt], loss_N[learnt]).of(known_NF[hidden])
        return [self._compared(_named(stand, words), cost * stand.cost, found)]

    def _compared(self, name: str, cost: float, losses: Mapping[str, Floats]) -> CheapVariant:
        return compare(name, cost, self._exact_N, score_of(losses), self._buckets, self._sources)

    def _means(self, stand: Stand, k: int) -> dict[str, Floats]:
        """Return the mean loss of each sample's first k tokens by model, float32 [N]."""
        count_N = np.maximum(self._tokens.real_tokens(self._ids_N, k), 1)
        return {
            name: (losses_NT[:, :k].sum(axis=1, dtype=np.float64) / count_N).astype(np.float32)
            for name, losses_NT in stand.losses.items()
        }

    def _share(self, k: int) -> float:
        """Return the share of the tokens that are among the first k of their sample."""
        return float(self._tokens.real_tokens(self._ids_N, k).sum() / self._counts_N.sum())


def score_of(losses: Mapping[str, Floats]) -> NDArray[Any]:
    """Return the PD of a weak and a strong model's losses, else the first model's loss."""
    if {"weak", "strong"} <= set(losses):
        pd: Floats = -np.expm1(losses["strong"] - losses["weak"])
        return pd
    return next(iter(losses.values()))


def _named(stand: Stand, words: str) -> str:
    return f"{stand.name} {words}".lstrip()


def _ranks(values_N: NDArray[Any]) -> NDArray[np.float64]:
    """Return each value's rank; equal values share the mean of theirs."""
    _, place_N, count_P = np.unique(values_N, return_inverse=True, return_counts=True)
    ends_P = np.cumsum(count_P)
    ranks_N: NDArray[np.float64] = (ends_P - (count_P + 1) / 2)[place_N]
    return ranks_N
