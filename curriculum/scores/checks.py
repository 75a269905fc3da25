"""Plausibility checks of scores, and what an anomaly would do to the curriculum."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from curriculum.scores.baseline import Baselines, baselines_of
from curriculum.scores.findings import Findings
from curriculum.scores.sums import SourceSums, sum_up
from curriculum.tokens.tokens import Tokens

FEW_SAMPLES = 20
"""Sources with fewer samples are not checked."""
CONSTANT_PD = 0.005
"""A deviation of PD below this is little more than rounding and the noise of a few tokens; real text has about 0.1."""
CONSTANT_LOSS = 1e-3
"""The same for losses, relative to their mean."""


def findings_of(path: Path, tokens: Tokens, training: Mapping[str, str]) -> Findings:
    """Return what is wrong with the scores of a slice, each with its consequence for an order and what to do about it.

    `training` says for how long, and at which learning rate, the models were trained, where that is known.
    """
    sums = sum_up(path, tokens)
    if int(sums.samples[-1]) < FEW_SAMPLES:
        return Findings()
    unusable = [*_untrained(sums, baselines_of(tokens), training), *_constant(sums)]
    inverted, others = _inverted(sums)
    where = f"slice {tokens.slice!r}: "
    return Findings(tuple(where + text for text in (*unusable, *inverted)), tuple(where + text for text in others))


def _untrained(sums: SourceSums, baselines: Baselines, training: Mapping[str, str]) -> list[str]:
    found = []
    for name, mean in sums.loss_mean.items():
        if shortfall := baselines.shortfall(float(mean[-1])):
            how = training.get(name)
            reason = (
                f"it was trained for {how}; take more steps (a smaller batch_size, a larger reference_fraction) or a "
                "higher optimizer.lr"
                if how
                else "train it longer, or check that its folder and its tokenizer are the right ones"
            )
            found.append(f"model {name!r} is {shortfall}: what it calls hard is chance; {reason}")
    return found


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


def _inverted(sums: SourceSums) -> tuple[list[str], list[str]]:
    """Return what is found about the whole slice, or else about the sources."""
    if sums.pd_mean is None or sums.pd_negative is None:
        return [], []
    mean, negative = sums.pd_mean[-1], sums.pd_negative[-1]
    if mean < 0 or negative > 0.5:
        return [
            f"the strong model is worse than the weak one (mean PD {mean:.3f}, negative for {negative:.0%} of the "
            "samples): low PD would not mean easy, and the order would be wrong; exchange the two if they are mixed "
            "up, else train the strong one longer"
        ], []
    checked = [index for index in range(len(sums.sources)) if sums.samples[index] >= FEW_SAMPLES]
    worse = [index for index in checked if sums.pd_mean[index] < 0 or sums.pd_negative[index] > 0.5]
    if not worse:
        return [], []
    bad = [
        f"{sums.sources[index]!r} (mean {sums.pd_mean[index]:.3f}, {sums.pd_negative[index]:.0%} negative)"
        for index in worse
    ]
    shown = ", ".join(bad[:3]) + (f" and {len(bad) - 3} more" if len(bad) > 3 else "")
    text = (
        f"the strong model is worse than the weak one on {shown}: there PD says nothing about difficulty, and an order "
        "over the whole corpus reads these sources first; stratify by source, or train the strong model on such text"
    )
    most = sum(int(sums.samples[index]) for index in worse) > sums.samples[-1] / 2
    return ([text], []) if most else ([], [text])
