"""Simulated comparisons whose true difference is known, for `benchmarks.interval_coverage`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train.evaluation.answers import Items

Values = NDArray[np.float64]
QUESTIONS, SAMPLES = 600, 400
QUESTION, LIKING, LUCK = 1.5, 0.3, 0.25
"""Standard deviations, in probits, of a question's difficulty, of its effect on an arm, and of its effect on a seed."""
TASTE, WINDOW, LUCK_NATS = 0.10, 0.28, 0.04
"""Standard deviations, in nats: of a document's effect on an arm, of a window's, and of a window's effect on a seed."""
EFFECT, EFFECT_NATS = 0.12, -0.02
"""True difference of the arms in every second repeat: in probits, and in nats."""


@dataclass(frozen=True)
class Case:
    """One kind of simulation."""

    name: str
    loss: bool
    """True: losses of samples of unequal length; False: right or wrong answers."""
    noise: float
    """For one pair of seeds: standard deviation of the difference due to seeds, divided by that due to items."""
    paired: bool = True
    """Whether both arms have the same seeds."""
    groups: int = 0
    """Number of documents (of a loss) or passages; 0: items are independent of each other."""
    inside: int = 1
    """Windows of a document, or questions about a passage."""
    uneven: float = 0.0
    """Standard deviation of the logarithm of a document's length."""


CASES = (
    Case("benchmark, seeds x 0", False, 0.0),
    Case("benchmark, seeds x 1", False, 1.0),
    Case("benchmark, seeds x 4", False, 4.0),
    Case("benchmark, unpaired x 1", False, 1.0, paired=False),
    Case("benchmark, 60 passages of 10", False, 1.0, groups=60, inside=10),
    Case("loss, seeds x 0", True, 0.0),
    Case("loss, seeds x 1", True, 1.0),
    Case("loss, seeds x 4", True, 4.0),
    Case("loss, seeds x 10", True, 10.0),
    Case("loss, unpaired x 1", True, 1.0, paired=False),
    Case("loss, 100 documents of 20", True, 1.0, groups=100, inside=20),
    Case("loss, 40 documents of 50", True, 1.0, groups=40, inside=50),
    Case("loss, 40 of 50, seeds x 0", True, 0.0, groups=40, inside=50),
    Case("loss, 100 of uneven length", True, 1.0, groups=100, inside=20, uneven=0.7),
    Case("loss, 12 documents of 50", True, 1.0, groups=12, inside=50),
)

World = tuple[tuple[list[Items], list[Items]], float]
"""The answers of every seed of both arms, and the true difference."""


def worlds(case: Case, seeds: int, repeats: int, rng: np.random.Generator) -> Iterator[World]:
    """Yield comparisons with newly drawn items and seeds; in every second one, the arms are equal."""
    for number in range(repeats):
        yield (_loss if case.loss else _benchmark)(case, seeds, number % 2 == 0, rng)


def _benchmark(case: Case, seeds: int, real: bool, rng: np.random.Generator) -> World:
    """An answer is right if arm + seed - question + liking + luck > 0, all normal: shares have a closed form.

    Half of the variance of difficulty and liking belongs to the passage, if there are passages.
    """
    together = math.sqrt(QUESTION**2 + LIKING**2 + LUCK**2)
    levels = (-0.2, -0.2 + EFFECT * real)
    group = np.repeat(np.arange(case.groups), case.inside) if case.groups else np.arange(QUESTIONS)

    def spread(deviation: float) -> Values:
        if not case.groups:
            return rng.normal(0, deviation, len(group))
        shared = rng.normal(0, deviation / math.sqrt(2), case.groups)
        return shared[group] + rng.normal(0, deviation / math.sqrt(2), len(group))

    # over n items, the difference of two shares has a standard deviation of about sqrt(2 * unlike / 2 / n)
    density = math.exp(-0.02) / math.sqrt(2 * math.pi) / together
    deviation = case.noise * math.sqrt(_unlike(together) / len(group)) / density / math.sqrt(2)
    asked = spread(QUESTION)
    shift = rng.normal(0, deviation, (2, seeds))
    arms: list[list[Items]] = []
    for arm in range(2):
        liking = spread(LIKING)
        luck = rng.normal(0, LUCK, (seeds, len(group)))
        right = (levels[arm] + shift[arm][:, None] - asked + liking + luck > 0).astype(np.float64)
        arms.append([Items(np.arange(len(group)), answers, np.ones(len(group)), group) for answers in right])
    if seeds == 1:
        shares = [_normal((levels[arm] + shift[arm][0]) / together) for arm in range(2)]
    else:
        whole = math.sqrt(together**2 + deviation**2)
        shares = [_normal(level / whole) for level in levels]
    return (arms[0], arms[1]), shares[1] - shares[0]


def _loss(case: Case, seeds: int, real: bool, rng: np.random.Generator) -> World:
    """Losses are a skewed base per window, effects of the arm per document and window, a seed's shift, and luck.

    A document's effect is about a tenth of the variance of a window's difference. Without documents, every sample is
    its own, and samples have unequal lengths.
    """
    if case.groups:
        sizes = np.maximum(1, np.round(case.inside * rng.lognormal(-(case.uneven**2) / 2, case.uneven, case.groups)))
        document = np.repeat(np.arange(case.groups), sizes.astype(int))
        weights = np.full(len(document), 256.0)
        window = WINDOW
    else:
        document = np.arange(SAMPLES)
        weights = np.maximum(1.0, np.floor(rng.gamma(2.0, 60.0, SAMPLES)))
        window = 0.0
    shares = weights / weights.sum()
    squares = float((np.bincount(document, weights=shares) ** 2).sum())
    items = math.sqrt(2 * (TASTE**2 * squares + (window**2 + LUCK_NATS**2) * float((shares**2).sum())))
    deviation = case.noise * items / math.sqrt(2)
    levels = (0.0, EFFECT_NATS * real)
    own = rng.gamma(4.0, 0.8, len(document))
    shift = rng.normal(0, deviation, (2, seeds))
    arms: list[list[Items]] = []
    for arm in range(2):
        liking = TASTE * (rng.exponential(1.0, document[-1] + 1) - 1)[document] + rng.normal(0, window, len(document))
        each = rng.normal(0, LUCK_NATS, (seeds, len(document)))
        values = own + liking + levels[arm] + shift[arm][:, None] + each
        arms.append([Items(np.arange(len(document)), losses, weights, document) for losses in values])
    truth = levels[1] - levels[0]
    return (arms[0], arms[1]), float(truth + (shift[1][0] - shift[0][0] if seeds == 1 else 0.0))


def _unlike(together: float) -> float:
    """Return the share of questions that two runs of two arms answer differently: arccos of their correlation / pi."""
    return math.acos(QUESTION**2 / together**2) / math.pi


def _normal(value: float) -> float:
    return 0.5 * (1 + math.erf(value / math.sqrt(2)))
