"""python -m benchmarks.interval_coverage [--repeats 1000] [--seed 0] [--bootstrap 300] [--aa RUN RUN ...]

Coverage of the 95 % intervals of `pdpc report`, and how often it is wrong to call a difference.

Without --aa, in simulations: two arms with 1 to 5 seeds answer the same items, in many repeats with newly drawn items
and seeds. Benchmarks (600 questions, right or wrong, by a probit model, also in 60 passages of 10 questions) and
held-out losses (400 samples of unequal length; windows of 12, 40 or 100 documents). Seed noise has several strengths,
from none to ten times the noise of the items; there is a true difference in one half of the repeats and none in the
other. A last case is the benchmark average when a seed of one arm lacks the easiest task, compared as a report does.

Printed for each case: how often the interval covers the true difference (between the two runs with one seed, between
the arms with several); false alarms, that is how often it excludes zero when the true difference is zero; how often
equal arms are called better or worse, which one seed never allows; and for comparison the coverage of intervals that
take items of a document or passage for independent ones, and, in the first `--bootstrap` repeats, of a paired two-level
bootstrap (groups of items and seeds, percentiles of 400 resamples).

Targets: coverage between 93 and 97 %, also over the cases with documents and passages only, and at most 7 % false
alarms, for each number of seeds. Otherwise the exit code is 1.

With --aa, on real runs of one arm that differ only in the seed: they are split into groups of 1 to 5 seeds, and groups
are compared as a report compares arms. All runs belong to one arm, so every difference that is called is a wrong call.
Groups without a run in common give few but independent comparisons; `--draws` random pairs of groups give many that
share runs, so that their share is more precise than one set of groups but less than its number suggests. Targets: no
verdict with one seed, and at most 7 % of the random pairs called different with three seeds or more.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.interval_runs import CALLED, MOST_SEEDS, Calls, Study, task_sets
from benchmarks.interval_worlds import CASES, Case, worlds
from train.evaluation.answers import Items
from train.report.arms import read_arm
from train.report.comparison import ONE_SEED
from train.report.fairness.warnings import warnings
from train.report.intervals import Interval, Side, interval, side_of
from train.report.measures import measures_of
from train.report.verdicts import verdict

SEEDS = range(1, MOST_SEEDS + 1)
RESAMPLES = 400
COVERED = (93.0, 97.0)
FALSE_ALARMS = 7.0
MEASURES = {True: measures_of([{"val/loss": 1.0}])[0], False: measures_of([{"bench/task/acc": 1.0}])[0]}


@dataclass
class Count:
    """Counts over repeats."""

    repeats: int = 0
    covered: int = 0
    without: int = 0
    """Repeats without a true difference."""
    alarms: int = 0
    """Of these, repeats in which the interval excludes zero."""
    alike: int = 0
    """Repeats with equal arms."""
    called: int = 0
    """Of these, repeats in which one arm was called better or worse."""
    grouped: int = 0
    """Repeats with documents or passages."""
    ungrouped: int = 0
    """Of these, repeats whose interval covers the truth if their items are taken for independent ones."""
    bootstrapped: int = 0
    bootstrap_covered: int = 0

    def add(self, other: Count) -> None:
        """Add the counts of other repeats."""
        for name in vars(self):
            setattr(self, name, getattr(self, name) + getattr(other, name))

    def interval(self, low: float, high: float, truth: float, alike: bool, word: str) -> None:
        """Count one comparison."""
        self.repeats += 1
        self.covered += low <= truth <= high
        self.without += truth == 0
        self.alarms += truth == 0 and not low <= 0 <= high
        self.alike += alike
        self.called += alike and word in CALLED

    @property
    def coverage(self) -> float:
        """In percent."""
        return 100 * self.covered / self.repeats

    @property
    def false_alarms(self) -> float:
        """In percent."""
        return 100 * self.alarms / max(1, self.without)

    @property
    def wrong_calls(self) -> float:
        """In percent."""
        return 100 * self.called / max(1, self.alike)

    @property
    def bootstrap(self) -> float:
        """Coverage of the bootstrap, in percent."""
        return 100 * self.bootstrap_covered / max(1, self.bootstrapped)


def main(arguments: list[str] | None = None) -> int:
    """Simulate or study runs, print, and return 0 if the targets are held."""
    options = _options(arguments)
    if options.aa:
        return same_arm(options.aa, options.seed, options.draws)
    table = Table("case", "seeds", "covered", "false alarms", "equal arms called", "items independent", "bootstrap")
    totals = {seeds: Count() for seeds in SEEDS}
    grouped = {seeds: Count() for seeds in SEEDS}
    for case in CASES:
        for seeds in SEEDS:
            count = simulate(case, seeds, options.repeats, options.seed, options.bootstrap)
            totals[seeds].add(count)
            if case.groups:
                grouped[seeds].add(count)
            table.add_row(case.name, str(seeds), *_row(count))
    for seeds in SEEDS:
        count = simulate_task_sets(seeds, options.repeats, options.seed)
        totals[seeds].add(count)
        table.add_row("average without a task", str(seeds), *_row(count))
    for name, counts in (("documents and passages", grouped), ("all", totals)):
        table.add_section()
        for seeds, total in counts.items():
            table.add_row(name, str(seeds), *_row(total))
    Console(width=120).print(table)
    low, high = COVERED
    judged = [*totals.values(), *grouped.values()]
    held = all(low <= count.coverage <= high and count.false_alarms <= FALSE_ALARMS for count in judged)
    print(f"coverage {low:g} to {high:g} %, false alarms at most {FALSE_ALARMS:.0f} %: {'held' if held else 'MISSED'}")
    return 0 if held else 1


def simulate(case: Case, seeds: int, repeats: int, seed: int, bootstrap: int = 0) -> Count:
    """Return the counts over `repeats` comparisons of two arms with `seeds` seeds each."""
    rng = np.random.default_rng([seed, CASES.index(case), seeds])
    count = Count()
    for number, (arms, truth) in enumerate(worlds(case, seeds, repeats, rng)):
        first, second = (_side(arm) for arm in arms)
        difference = float(second.means.mean() - first.means.mean())
        found = _interval(first, second, case.paired)
        word = verdict(MEASURES[case.loss], difference, found, ONE_SEED if seeds == 1 else "")
        count.interval(found.low, found.high, truth, number % 2 == 1, word)
        if case.groups:
            one, other = (_side([replace(items, groups=None) for items in arm]) for arm in arms)
            alone = _interval(one, other, case.paired)
            count.grouped += 1
            count.ungrouped += alone.low <= truth <= alone.high
        if number < bootstrap:
            low, high = bootstrap_interval(first, second, difference, case.paired, rng)
            count.bootstrapped += 1
            count.bootstrap_covered += low <= truth <= high
    return count


def simulate_task_sets(seeds: int, repeats: int, seed: int) -> Count:
    """Return the counts over comparisons of averages over unequal sets of tasks."""
    count = Count()
    rng = np.random.default_rng([seed, len(CASES), seeds])
    for number, (gain, truth) in enumerate(task_sets(seeds, repeats, rng)):
        assert gain.low is not None
        assert gain.high is not None
        count.interval(gain.low, gain.high, truth, number % 2 == 1, gain.verdict)
    return count


def bootstrap_interval(
    first: Side, second: Side, difference: float, paired: bool, rng: np.random.Generator, resamples: int = RESAMPLES
) -> tuple[float, float]:
    """Return the percentile interval of a bootstrap over groups of items (the same for both sides) and seeds."""
    assert first.influence is not None
    assert second.influence is not None
    groups = first.influence.shape[1]
    drawn = rng.multinomial(groups, np.full(groups, 1 / groups), size=resamples)
    shrink = math.sqrt((groups - 1) / groups)
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


def same_arm(places: Sequence[str], seed: int, draws: int) -> int:
    """Compare groups of runs of one arm, print how often they are called different; 0 if the targets are held.

    Raises ValueError for fewer than two runs, and for runs that share a seed.
    """
    arm = read_arm("aa", places)
    if len(arm.runs) < 2 or len(set(arm.seeds)) < len(arm.seeds):
        raise ValueError(f"--aa needs at least two runs with different seeds, not {arm.seeds}: give one run per seed")
    for sentence in warnings([arm], []):
        print(f"! {sentence}")
    study = Study(arm, seed)
    table = Table("seeds", "groups", "comparisons", "excludes zero", "called", "other measures called", "any called")
    held = True
    for size in range(1, min(MOST_SEEDS, len(arm.runs) // 2) + 1):
        for paired in (False, True) if size > 1 else (True,):
            how = f"{'paired' if paired else 'unpaired'}, " if size > 1 else ""
            random = study.random(size, draws, paired)
            for name, calls in (("no run in common", study.disjoint(size, paired)), ("random", random)):
                table.add_row(str(size), how + name, str(calls.comparisons), *_shares(calls))
            held &= 100 * random.called <= (0 if size == 1 else FALSE_ALARMS if size > 2 else 100) * random.comparisons
    Console(width=120).print(table)
    print(
        f"{len(arm.runs)} runs of one arm: no verdict with one seed, at most {FALSE_ALARMS:.0f} % called with three "
        f"or more: {'held' if held else 'MISSED'}"
    )
    return 0 if held else 1


def _shares(calls: Calls) -> list[str]:
    parts = [(calls.excluded, calls.comparisons), (calls.called, calls.comparisons)]
    parts += [(calls.measures_called, calls.measures), (calls.any_called, calls.comparisons)]
    return [f"{100 * part / whole:.1f} %" if whole else "-" for part, whole in parts]


def _interval(first: Side, second: Side, paired: bool) -> Interval:
    found = interval(first, second, float(second.means.mean() - first.means.mean()), paired)
    assert found is not None
    return found


def _side(seeds: list[Items]) -> Side:
    side = side_of(seeds)
    assert side is not None
    return side


def _row(count: Count) -> list[str]:
    bootstrap = f"{count.bootstrap:.1f} %" if count.bootstrapped else "-"
    alarms = f"{count.false_alarms:.1f} %" if count.without else "-"
    called = f"{count.wrong_calls:.1f} %" if count.alike else "-"
    ungrouped = f"{100 * count.ungrouped / count.grouped:.1f} %" if count.grouped == count.repeats else "-"
    return [f"{count.coverage:.1f} %", alarms, called, ungrouped, bootstrap]


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000, help="comparisons of each kind (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulation, or of the groups (default 0)")
    parser.add_argument("--bootstrap", type=int, default=300, help="repeats that also run a bootstrap (default 300)")
    parser.add_argument("--aa", nargs="+", default=[], metavar="RUN", help="RUN folders of one arm, one per seed")
    parser.add_argument("--draws", type=int, default=200, help="random pairs of groups of each size (default 200)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
