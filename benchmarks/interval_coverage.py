"""python -m benchmarks.interval_coverage [--repeats 1000] [--seed 0] [--bootstrap 300]

Coverage of the 95 % intervals of `pdpc report` in simulations. Two arms with 1, 3 or 5 seeds answer the same items, in
many repeats with newly drawn items and seeds: a benchmark (600 questions, right or wrong, by a probit model) and a
held-out loss (400 samples of unequal length). Seed noise has three strengths, from none to four times the noise of the
items; there is a true difference in one half of the repeats and none in the other.

Printed for each case: how often the interval covers the true difference (between the two runs with one seed, between
the arms with several); false alarms, that is how often a difference is called better or worse when the true difference
is zero; the same when the arms are equal, although two runs of equal arms may differ; and for comparison, in the first
`--bootstrap` repeats, the coverage of a paired two-level bootstrap (items and seeds, percentiles of 400 resamples).

Targets: coverage between 93 and 97 % and at most 7 % false alarms, for each of 1, 3 and 5 seeds over all cases.
Otherwise the exit code is 1.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from train.evaluation.answers import Items
from train.report.intervals import Side, interval, side_of

Values = NDArray[np.float64]
SEEDS = (1, 3, 5)
QUESTIONS, SAMPLES, RESAMPLES = 600, 400, 400
COVERED = (93.0, 97.0)
FALSE_ALARMS = 7.0
QUESTION, LIKING, LUCK = 1.5, 0.3, 0.25
"""Standard deviations, in probits, of a question's difficulty, of its effect on an arm, and of its effect on a seed."""


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


CASES = (
    Case("benchmark, seeds x 0", False, 0.0),
    Case("benchmark, seeds x 1", False, 1.0),
    Case("benchmark, seeds x 4", False, 4.0),
    Case("benchmark, unpaired x 1", False, 1.0, paired=False),
    Case("loss, seeds x 0", True, 0.0),
    Case("loss, seeds x 1", True, 1.0),
    Case("loss, seeds x 4", True, 4.0),
    Case("loss, unpaired x 1", True, 1.0, paired=False),
)


@dataclass
class Count:
    """Counts over repeats."""

    repeats: int = 0
    covered: int = 0
    without: int = 0
    """Repeats without a true difference."""
    alarms: int = 0
    """Of these, repeats in which a difference was reported."""
    alike: int = 0
    """Repeats with equal arms."""
    called: int = 0
    """Of these, repeats in which a difference was reported: with one seed, it may be due to the seed."""
    bootstrapped: int = 0
    bootstrap_covered: int = 0

    def add(self, other: Count) -> None:
        """Add the counts of other repeats."""
        for name in vars(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    @property
    def coverage(self) -> float:
        """In percent."""
        return 100 * self.covered / self.repeats

    @property
    def false_alarms(self) -> float:
        """In percent."""
        return 100 * self.alarms / max(1, self.without)

    @property
    def bootstrap(self) -> float:
        """Coverage of the bootstrap, in percent."""
        return 100 * self.bootstrap_covered / max(1, self.bootstrapped)


def main(arguments: list[str] | None = None) -> int:
    """Simulate, print, and return 0 if the targets are held."""
    options = _options(arguments)
    table = Table("case", "seeds", "covered", "false alarms", "equal arms", "bootstrap")
    totals = {seeds: Count() for seeds in SEEDS}
    for case in CASES:
        for seeds, total in totals.items():
            count = simulate(case, seeds, options.repeats, options.seed, options.bootstrap)
            total.add(count)
            table.add_row(case.name, str(seeds), *_row(count))
    table.add_section()
    for seeds, total in totals.items():
        table.add_row("all", str(seeds), *_row(total))
    Console().print(table)
    low, high = COVERED
    held = all(low <= c.coverage <= high and c.false_alarms <= FALSE_ALARMS for c in totals.values())
    print(
        f"coverage {low:.0f} to {high:.0f} %, false alarms at most {FALSE_ALARMS:.0f} %: {'held' if held else 'MISSED'}"
    )
    return 0 if held else 1


def simulate(case: Case, seeds: int, repeats: int, seed: int, bootstrap: int = 0) -> Count:
    """Return the counts over `repeats` comparisons of two arms with `seeds` seeds each."""
    rng = np.random.default_rng([seed, CASES.index(case), seeds])
    count = Count()
    for number, (arms, truth) in enumerate(_worlds(case, seeds, repeats, rng)):
        first, second = (_side(arm) for arm in arms)
        difference = float(second.means.mean() - first.means.mean())
        found = interval(first, second, difference, case.paired)
        assert found is not None
        count.repeats += 1
        count.covered += found.low <= truth <= found.high
        seen = not found.low <= 0 <= found.high
        if truth == 0:
            count.without += 1
            count.alarms += seen
        if number % 2:
            count.alike += 1
            count.called += seen
        if number < bootstrap:
            low, high = bootstrap_interval(first, second, difference, case.paired, rng)
            count.bootstrapped += 1
            count.bootstrap_covered += low <= truth <= high
    return count


def bootstrap_interval(
    first: Side, second: Side, difference: float, paired: bool, rng: np.random.Generator, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return the percentile interval of a bootstrap over items (the same for both sides) and seeds (in pairs)."""
    assert first.influence is not None
    assert second.influence is not None
    items = first.influence.shape[1]
    drawn = rng.multinomial(items, np.full(items, 1 / items), size=resamples)
    shrink = math.sqrt((items - 1) / items)
    influences = (first.influence, second.influence)
    sums = [
        side.means[:, None] + shrink * each @ drawn.T for side, each in zip((first, second), influences, strict=True)
    ]
    counts = [len(side.means) for side in (first, second)]
    weights = [rng.multinomial(n, np.full(n, 1 / n), size=resamples).T / n for n in counts]
    if paired:
        weights[1] = weights[0]
    means = [(weight * total).sum(axis=0) for weight, total in zip(weights, sums, strict=True)]
    low, high = np.quantile(means[1] - means[0], [0.025, 0.975])
    return float(low), float(high)


def _worlds(
    case: Case, seeds: int, repeats: int, rng: np.random.Generator
) -> Iterator[tuple[tuple[list[Items], list[Items]], float]]:
    """Yield the answers of both arms and the true difference; in every second repeat the arms are equal."""
    for number in range(repeats):
        yield (_loss if case.loss else _benchmark)(case, seeds, number % 2 == 0, rng)


def _benchmark(
    case: Case, seeds: int, real: bool, rng: np.random.Generator
) -> tuple[tuple[list[Items], list[Items]], float]:
    """An answer is right if arm + seed - question + liking + luck > 0, all normal: shares have a closed form."""
    together = math.sqrt(QUESTION**2 + LIKING**2 + LUCK**2)
    levels = (-0.2, -0.2 + 0.12 * real)
    # over n items, the difference of two shares has a standard deviation of about sqrt(2 * unlike / 2 / n)
    density = math.exp(-0.02) / math.sqrt(2 * math.pi) / together
    deviation = case.noise * math.sqrt(_unlike(together) / QUESTIONS) / density / math.sqrt(2)
    asked = rng.normal(0, QUESTION, QUESTIONS)
    shift = rng.normal(0, deviation, (2, seeds))
    arms: list[list[Items]] = []
    for arm in range(2):
        liking = rng.normal(0, LIKING, QUESTIONS)
        luck = rng.normal(0, LUCK, (seeds, QUESTIONS))
        right = (levels[arm] + shift[arm][:, None] - asked + liking + luck > 0).astype(np.float64)
        arms.append([Items(np.arange(QUESTIONS), answers, np.ones(QUESTIONS)) for answers in right])
    if seeds == 1:
        shares = [_normal((levels[arm] + shift[arm][0]) / together) for arm in range(2)]
    else:
        whole = math.sqrt(together**2 + deviation**2)
        shares = [_normal(level / whole) for level in levels]
    return (arms[0], arms[1]), shares[1] - shares[0]


def _loss(
    case: Case, seeds: int, real: bool, rng: np.random.Generator
) -> tuple[tuple[list[Items], list[Items]], float]:
    """Losses are the sum of a skewed base per sample, an effect of the arm per sample, a seed's shift, and noise."""
    weights = np.maximum(1.0, np.floor(rng.gamma(2.0, 60.0, SAMPLES)))
    own = rng.gamma(4.0, 0.8, SAMPLES)
    taste, luck = 0.10, 0.04
    effective = 1.5 * SAMPLES**-1  # mean of squared weights over the square of their mean, a gamma's, over n
    items = math.sqrt(effective * 2 * (taste**2 + luck**2))
    deviation = case.noise * items / math.sqrt(2)
    levels = (0.0, -0.02 * real)
    shift = rng.normal(0, deviation, (2, seeds))
    arms: list[list[Items]] = []
    for arm in range(2):
        liking = taste * (rng.exponential(1.0, SAMPLES) - 1)
        each = rng.normal(0, luck, (seeds, SAMPLES))
        values = own + liking + levels[arm] + shift[arm][:, None] + each
        arms.append([Items(np.arange(SAMPLES), losses, weights) for losses in values])
    truth = levels[1] - levels[0]
    return (arms[0], arms[1]), float(truth + (shift[1][0] - shift[0][0] if seeds == 1 else 0.0))


def _unlike(together: float) -> float:
    """Return the share of questions that two runs of two arms answer differently: arccos of their correlation / pi."""
    return math.acos(QUESTION**2 / together**2) / math.pi


def _normal(value: float) -> float:
    return 0.5 * (1 + math.erf(value / math.sqrt(2)))


def _side(seeds: list[Items]) -> Side:
    side = side_of(seeds)
    assert side is not None
    return side


def _row(count: Count) -> list[str]:
    bootstrap = f"{count.bootstrap:.1f} %" if count.bootstrapped else "-"
    alarms = f"{count.false_alarms:.1f} %" if count.without else "-"
    called = f"{100 * count.called / count.alike:.1f} %" if count.alike else "-"
    return [f"{count.coverage:.1f} %", alarms, called, bootstrap]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000, help="comparisons of each kind (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulation (default 0)")
    parser.add_argument("--bootstrap", type=int, default=300, help="repeats that also run a bootstrap (default 300)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
