"""The results of a study: every measure at the end of its runs, by seed, and the tests that were decided on before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Any

import numpy as np

from launch.study.file import Study
from launch.study.statistics import (
    UNSUPPORTED,
    Estimate,
    Values,
    nested_bootstrap,
    paired_t,
    pairs_needed,
    tier,
    tokens_to,
)
from launch.study.steps import Steps
from train.evaluation.answers import answers_path, read_answers
from train.report.fairness.facts import FINGERPRINTS
from train.report.fairness.warnings import MUST_AGREE
from train.report.measures import Measure, measures_of
from train.report.records import Run, finite, read_run
from train.report.verdicts import holm

DIFFERENCE = 0.02
"""Nats per token: the difference for which a study states the pairs of runs that would find it."""


@dataclass(frozen=True)
class Comparison:
    """One measure of one arm compared with the baseline."""

    arm: str
    schedule: str
    measure: str
    label: str
    better: bool
    """Whether the mean difference is a gain."""
    values: dict[int, float]
    """The arm's final values by seed."""
    baseline: dict[int, float]
    by_seeds: Estimate
    by_documents: Estimate | None
    """From resampling seeds and documents; None if the runs kept no answers with documents."""
    p_adjusted: float
    """Holm's, over all secondary comparisons; for the primary one, its own p-value."""
    evidence: str


@dataclass(frozen=True)
class Results:
    """What a study found."""

    baseline_schedule: str
    """The baseline's best schedule by the primary measure: every arm is compared with it."""
    by_schedule: dict[str, float]
    """The baseline's mean of the primary measure by schedule."""
    primary: Comparison
    secondary: list[Comparison]
    tokens_saved: Estimate | None
    """Share of the baseline's tokens after which the arm had reached the baseline's final loss, minus 1."""
    deviation: float
    """Standard deviation of the seed differences of the primary measure."""
    needed: int
    """Pairs of runs that find a difference of DIFFERENCE with 80 % power at this deviation."""
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the results for a JSON file."""
        return asdict(self)


Finals = Mapping[tuple[str, str, int], Run]
"""(arm, schedule, seed) to its run."""


def results_of(study: Study, steps: Steps) -> Results:
    """Return the results of the finished runs.

    Raises ValueError if the primary measure cannot be compared for at least 2 seeds, or if the runs were measured on
    different text.
    """
    runs = {
        (one.arm, one.schedule, one.seed): read_run(one.step.name, one.step.output)
        for one in steps.runs
        if (one.step.output / "metrics.jsonl").is_file()
    }
    runs = {key: run for key, run in runs.items() if run.finished and run.stages}
    _check_alike(list(runs.values()))
    measures = {measure.key: measure for measure in measures_of([run.stages[-1] for run in runs.values()])}
    primary = measures.get(study.primary.measure)
    if primary is None:
        raise ValueError(
            f"primary.measure: no run has recorded {study.primary.measure}: use one of {', '.join(sorted(measures))}"
        )
    by_schedule = {
        schedule: fmean(values.values())
        for schedule in study.schedules
        if (values := _values(study, runs, study.baseline, schedule, primary))
    }
    if not by_schedule:
        raise ValueError(f"no run of the baseline {study.baseline} has finished with a {primary.key}")
    best = (min if primary.lower_is_better else max)(by_schedule, key=lambda schedule: by_schedule[schedule])
    notes = [] if len(runs) == len(steps.runs) else [f"{len(steps.runs) - len(runs)} runs have not finished"]

    found = {}
    for arm in study.arms:
        for schedule in study.schedules if arm != study.baseline else ():
            for measure in measures.values():
                comparison = _compared(study, runs, arm, schedule, best, measure)
                if comparison is not None:
                    found[arm, schedule, measure.key] = comparison
    first = found.pop((study.primary.arm, study.primary.schedule, primary.key), None)
    if first is None:
        raise ValueError(
            f"the primary comparison needs 2 seeds of {study.primary.arm} and {study.baseline} that have finished: "
            "add seeds, or run the study to its end"
        )
    corrected = holm([one.by_seeds.p for one in found.values()])
    secondary = [_with_p(one, p) for one, p in zip(found.values(), corrected, strict=True)]
    differences = [first.values[seed] - first.baseline[seed] for seed in first.values]
    return Results(
        best,
        by_schedule,
        first,
        secondary,
        _tokens_saved(study, runs, best, primary),
        stdev(differences),
        pairs_needed(stdev(differences), DIFFERENCE),
        notes,
    )


def _check_alike(runs: list[Run]) -> None:
    """Raise ValueError for runs of different tokens or held-out text, as after text was changed between two runs."""
    for name, words in FINGERPRINTS.items():
        known = {found: run.folder for run in runs if (found := run.fact("fingerprints", name)) is not None}
        if words in MUST_AGREE and len(known) > 1:
            first, second, *_ = known.values()
            raise ValueError(
                f"{first} and {second} cannot be compared: {MUST_AGREE[words]} (what they were made from has changed "
                "between them): choose another output, and run the study there"
            )


def _values(study: Study, runs: Finals, arm: str, schedule: str, measure: Measure) -> dict[int, float]:
    """Return a measure's final values by seed."""
    kept = {seed: runs[arm, schedule, seed] for seed in study.seeds if (arm, schedule, seed) in runs}
    found = {seed: finite(run.stages[-1], measure.key) for seed, run in kept.items()}
    return {seed: value for seed, value in found.items() if value is not None}


def _compared(study: Study, runs: Finals, arm: str, schedule: str, best: str, measure: Measure) -> Comparison | None:
    """Return an arm's comparison with the baseline over the seeds that both have; None for fewer than 2."""
    values = _values(study, runs, arm, schedule, measure)
    baseline = _values(study, runs, study.baseline, best, measure)
    seeds = [seed for seed in study.seeds if seed in values and seed in baseline]
    if len(seeds) < 2:
        return None
    by_seeds = paired_t(np.array([values[seed] - baseline[seed] for seed in seeds]))
    by_documents = _by_documents(
        [runs[study.baseline, best, seed] for seed in seeds], [runs[arm, schedule, seed] for seed in seeds], measure.key
    )
    estimates = [by_seeds, *([by_documents] if by_documents is not None else [])]
    return Comparison(
        arm,
        schedule,
        measure.key,
        measure.label,
        (by_seeds.value < 0) == measure.lower_is_better,
        {seed: values[seed] for seed in seeds},
        {seed: baseline[seed] for seed in seeds},
        by_seeds,
        by_documents,
        by_seeds.p,
        tier(estimates, repeated=False) if len(estimates) == 2 else UNSUPPORTED,
    )


def _by_documents(first: list[Run], second: list[Run], key: str) -> Estimate | None:
    """Return the bootstrap over seeds and documents; None if the runs did not keep the same documents."""
    tables = [_documents(run, key) for run in (*first, *second)]
    known = [table for table in tables if table is not None]
    if len(known) < len(tables) or any(table.keys() != known[0].keys() for table in known) or len(known[0]) < 2:
        return None

    def column(tables: list[dict[int, tuple[float, float]]], index: int) -> Values:
        return np.array([[table[document][index] for document in known[0]] for table in tables])

    count = len(first)
    return nested_bootstrap(column(known[:count], 0), column(known[count:], 0), column(known[:count], 1))


def _documents(run: Run, key: str) -> dict[int, tuple[float, float]] | None:
    """Return (mean, weight) by document at the end of a run; None if unknown."""
    items = read_answers(answers_path(run.folder, int(run.stages[-1]["step"]))).get(key)
    if items is None or items.groups is None:
        return None
    groups, place = np.unique(items.groups, return_inverse=True)
    weight = np.bincount(place, items.weights)
    mean = np.bincount(place, items.weights * items.values) / weight
    return {int(group): (float(value), float(size)) for group, value, size in zip(groups, mean, weight, strict=True)}


def _tokens_saved(study: Study, runs: Finals, best: str, measure: Measure) -> Estimate | None:
    """Return how many fewer tokens the primary arm needs for the baseline's final value; None if it is not reached."""
    if not measure.lower_is_better:
        return None
    shares = []
    for seed in study.seeds:
        arm = runs.get((study.primary.arm, study.primary.schedule, seed))
        baseline = runs.get((study.baseline, best, seed))
        if arm is None or baseline is None:
            continue
        loss = finite(baseline.stages[-1], measure.key)
        points = [(r["tokens"], value) for r in arm.stages if (value := finite(r, measure.key)) is not None]
        if loss is None or len(points) < 2:
            continue
        reached = tokens_to(loss, *(np.array(column, dtype=np.float64) for column in zip(*points, strict=True)))
        if reached is None:
            return None
        shares.append(reached / baseline.tokens - 1)
    return paired_t(np.array(shares)) if len(shares) > 1 else None


def _with_p(one: Comparison, adjusted: float) -> Comparison:
    """Return a secondary comparison with its adjusted p-value; without significance after it, it is not supported."""
    evidence = one.evidence if adjusted < 0.05 else UNSUPPORTED
    return Comparison(**{**vars(one), "p_adjusted": adjusted, "evidence": evidence})
