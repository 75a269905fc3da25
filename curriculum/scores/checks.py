"""Plausibility checks of scores, and what an anomaly would do to the curriculum."""

from __future__ import annotations

from pathlib import Path

from curriculum.scores.sums import SourceSums, sum_up
from curriculum.tokens.tokens import Tokens

FEW_SAMPLES = 20
"""Sources with fewer samples are not checked."""
CONSTANT_PD = 0.005
"""A deviation of PD below this is little more than rounding and the noise of a few tokens; real text has about 0.1."""
CONSTANT_LOSS = 1e-3
"""The same for losses, relative to their mean."""


def warnings_of(path: Path, tokens: Tokens) -> list[str]:
    """Return warnings about the scores of a slice, each with its consequence for an order."""
    sums = sum_up(path, tokens)
    if int(sums.samples[-1]) < FEW_SAMPLES:
        return []
    return [f"slice {tokens.slice!r}: {warning}" for warning in [*_constant(sums), *_inverted(sums)]]


def _constant(sums: SourceSums) -> list[str]:
    warnings = [
        f"model {name!r} gives nearly every sample the same loss ({mean[-1]:.4f}, deviation "
        f"{sums.loss_deviation[name][-1]:.2g}): it has learnt nothing that tells samples apart, and an order by it "
        "would be a shuffle; train it longer, or check that its folder is the right one"
        for name, mean in sums.loss_mean.items()
        if sums.loss_deviation[name][-1] < CONSTANT_LOSS * abs(mean[-1])
    ]
    if not warnings and sums.pd_deviation is not None and sums.pd_deviation[-1] < CONSTANT_PD:
        warnings.append(
            f"PD is nearly the same everywhere (deviation {sums.pd_deviation[-1]:.2g}): the weak and the strong model "
            "are too much alike, and buckets cut by it would be random; take models further apart in size or training"
        )
    return warnings


def _inverted(sums: SourceSums) -> list[str]:
    if sums.pd_mean is None or sums.pd_negative is None:
        return []
    if sums.pd_mean[-1] < 0:
        return [
            f"the strong model is worse than the weak one (mean PD {sums.pd_mean[-1]:.3f}, negative for "
            f"{sums.pd_negative[-1]:.0%} of the samples): low PD would not mean easy, and the order would be wrong; "
            "exchange the two if they are mixed up, else train the strong one longer"
        ]
    bad = [
        f"{name!r} (mean {sums.pd_mean[index]:.3f}, {sums.pd_negative[index]:.0%} negative)"
        for index, name in enumerate(sums.sources)
        if sums.samples[index] >= FEW_SAMPLES and sums.pd_mean[index] < 0
    ]
    if not bad:
        return []
    shown = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
    return [
        f"the strong model is worse than the weak one on {shown}: there PD says nothing about difficulty, and an order "
        "over the whole corpus reads these sources first; stratify by source, or train the strong model on such text"
    ]
