"""The results of a study: the report's table of gains, with the primary comparison and the evidence for each."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import fmean, stdev
from typing import Any

import numpy as np

from launch.study.file import Study
from launch.study.statistics import pairs_needed, tokens_to
from launch.study.steps import Steps
from train.report.arms import Arm, arm_of
from train.report.comparison import Gain
from train.report.effects import Effect
from train.report.fairness.facts import FINGERPRINTS
from train.report.fairness.warnings import MUST_AGREE
from train.report.gains import Gains, compute
from train.report.intervals import Interval, Side, interval
from train.report.measures import Measure, measures_of
from train.report.records import Run, finite, read_run
from train.report.twins import Twins, twins_of
from train.report.verdicts import SUGGESTIVE as CORRECTED
from train.report.verdicts import UNDECIDED

DIFFERENCE = 0.02
"""Nats per token: the difference for which a study states the pairs of runs that would find it."""
BOTH = "items and seeds"
"""Method of an interval that covers other documents and other seeds."""
SUGGESTIVE, UNSUPPORTED = "suggestive", "not supported"
"""Evidence. A suggestive difference becomes robust when a second target or pool repeats it."""


@dataclass(frozen=True)
class Comparison:
    """One measure of one arm compared with the baseline at the end of training."""

    arm: str
    schedule: str
    measure: Measure
    values: dict[int, float]
    """The arm's values by seed, for the seeds that the baseline has too."""
    baseline: dict[int, float]
    gain: Gain
    """The difference, its interval over seeds and documents, and its p-value, corrected for all secondary ones."""
    by_seeds: Interval | None
    """Student's interval over the seeds; None if they do not differ at all."""

    @property
    def evidence(self) -> str:
        """SUGGESTIVE if both intervals exclude zero, also after correction; else UNSUPPORTED."""
        return SUGGESTIVE if not self.doubt else UNSUPPORTED

    @property
    def doubt(self) -> str:
        """Why a difference is not supported, in words; empty if it is."""
        if self.gain.verdict == CORRECTED:
            return f"{UNDECIDED} after correction for the number of comparisons"
        if self.gain.verdict not in ("better", "worse"):
            return self.gain.verdict + (f" ({self.gain.withheld})" if self.gain.withheld else "")
        if self.by_seeds is None:
            return "no verdict, because the seeds do not differ"
        if self.by_seeds.low <= 0 <= self.by_seeds.high:
            return UNDECIDED
        return "" if self.gain.method == BOTH else "no verdict, because the runs kept no answers by document"

    def as_dict(self) -> dict[str, Any]:
        """Return the comparison for a JSON file."""
        return {
            "arm": self.arm,
            "schedule": self.schedule,
            "measure": self.measure.key,
            "label": self.measure.label,
            "values": self.values,
            "baseline": self.baseline,
            "by_seeds": self.by_seeds and asdict(self.by_seeds),
            "gain": asdict(self.gain),
            "evidence": self.evidence,
        }


@dataclass(frozen=True)
class Results:
    """What a study found."""

    baseline_schedule: str
    """The baseline's best schedule by the primary measure: every arm is compared with it."""
    by_schedule: dict[str, float]
    """The baseline's mean of the primary measure by schedule."""
    primary: Comparison
    secondary: list[Comparison]
    tokens_saved: Effect | None
    """Share of the baseline's tokens after which the arm had reached the baseline's final loss, minus 1."""
    deviation: float
    """Standard deviation of the seed differences of the primary measure."""
    needed: int | None
    """Pairs of runs that find a difference of DIFFERENCE with 80 % power; None: no number does on these documents."""
    gains: Gains
    twins: list[Twins] = field(default_factory=list)
    """Orders with both their twins, and the parts of their effects."""
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return the results for a JSON file."""
        kept = {key: value for key, value in vars(self).items() if key != "gains"}
        saved = self.tokens_saved and asdict(self.tokens_saved)
        twins = [asdict(one) for one in self.twins]
        secondary = [one.as_dict() for one in self.secondary]
        return {
            **kept,
            "primary": self.primary.as_dict(),
            "secondary": secondary,
            "tokens_saved": saved,
            "twins": twins,
        }


def named(study: Study, arm: str, schedule: str) -> str:
    """Return an arm with its schedule, or alone if the study has one schedule."""
    return f"{arm} ({schedule})" if len(study.schedules) > 1 else arm


def results_of(study: Study, steps: Steps) -> Results:
    """Return the results of the finished runs.

    Raises ValueError if the primary measure cannot be compared for at least 2 seeds, or if the runs were measured on
    different text.
    """
    arms = _arms(study, steps)
    finished = [run for arm in arms.values() for run in arm.runs if run.stages]
    _check_alike(finished)
    measures = {measure.key: measure for measure in measures_of([run.stages[-1] for run in finished])}
    primary = measures.get(study.primary.measure)
    if primary is None:
        raise ValueError(
            f"primary.measure: no run has recorded {study.primary.measure}: use one of {', '.join(sorted(measures))}"
        )
    by_schedule = {
        schedule: fmean(values)
        for schedule in study.schedules
        if (values := _finals(arms.get((study.baseline, schedule)), primary))
    }
    if not by_schedule:
        raise ValueError(f"no run of the baseline {study.baseline} has finished with a {primary.key}")
    best = (min if primary.lower_is_better else max)(by_schedule, key=lambda schedule: by_schedule[schedule])
    compared = {where: arm for where, arm in arms.items() if where[0] != study.baseline or where[1] == best}
    asked = (study.primary.arm, study.primary.schedule)
    gains = compute(
        list(compared.values()), named(study, study.baseline, best), primary=(primary.key, named(study, *asked))
    )
    found = {
        (*where, measure.key): comparison
        for where in compared
        for measure in gains.measures
        if where[0] != study.baseline and (comparison := _compared(study, gains, *where, measure)) is not None
    }
    first = found.pop((*asked, primary.key), None)
    if first is None:
        raise ValueError(
            f"the primary comparison needs 2 seeds of {study.primary.arm} and {study.baseline} that have finished: "
            "add seeds, or run the study to its end"
        )
    deviation = stdev(first.values[seed] - first.baseline[seed] for seed in first.values)
    missing = len(steps.runs) - len(finished)
    return Results(
        best,
        by_schedule,
        first,
        list(found.values()),
        _tokens_saved(arms[asked], arms[study.baseline, best], primary),
        deviation,
        pairs_needed(deviation, DIFFERENCE, first.gain.floor),
        gains,
        twins_of(list(compared.values()), gains, primary.key),
        [*([f"{missing} runs have not finished"] if missing else []), *gains.notes],
    )


def _arms(study: Study, steps: Steps) -> dict[tuple[str, str], Arm]:
    """Return the arms with a finished run, by (arm, schedule); all have a run per seed, one without records if it has
    not finished, so that the others stay paired."""
    runs: dict[tuple[str, str], list[Run]] = {}
    for one in steps.runs:
        run = Run(one.step.name, one.step.output, {}, {"seed": one.seed}, [], [], [])
        if (one.step.output / "metrics.jsonl").is_file():
            read = read_run(one.step.name, one.step.output)
            run = read if read.finished else run
        runs.setdefault((one.arm, one.schedule), []).append(run)
    found = {where: of_arm for where, of_arm in runs.items() if any(run.stages for run in of_arm)}
    return {where: arm_of(named(study, *where), of_arm) for where, of_arm in found.items()}


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


def _finals(arm: Arm | None, measure: Measure) -> list[float]:
    """Return a measure's final value of every seed that has one."""
    records = [run.stages[-1] for run in (arm.runs if arm else ()) if run.stages]
    return [value for record in records if (value := finite(record, measure.key)) is not None]


def _compared(study: Study, gains: Gains, arm: str, schedule: str, measure: Measure) -> Comparison | None:
    """Return an arm's comparison with the baseline over the seeds that both have; None for fewer than 2."""
    name = named(study, arm, schedule)
    gain = gains.final(name, measure).gain
    evaluated = gains.points[gains.last_common(name)].evaluated
    values, baseline = (
        {run.seed: value for run, record in evaluated[one] if (value := finite(record, measure.key)) is not None}
        for one in (name, gains.baseline)
    )
    seeds = [seed for seed in study.seeds if seed in values and seed in baseline]
    if gain is None or len(seeds) < 2:
        return None
    first, second = (Side(np.array([of_seed[seed] for seed in seeds])) for of_seed in (baseline, values))
    return Comparison(
        arm,
        schedule,
        measure,
        {seed: values[seed] for seed in seeds},
        {seed: baseline[seed] for seed in seeds},
        gain,
        interval(first, second, float((second.means - first.means).mean()), paired=True),
    )


def _tokens_saved(arm: Arm, baseline: Arm, measure: Measure) -> Effect | None:
    """Return how many fewer tokens an arm needs for the baseline's final value; None if it is not reached."""
    if not measure.lower_is_better:
        return None
    shares = []
    for own, other in zip(arm.runs, baseline.runs, strict=True):
        loss = finite(other.stages[-1], measure.key) if other.stages else None
        points = [(r["tokens"], value) for r in own.stages if (value := finite(r, measure.key)) is not None]
        if loss is None or len(points) < 2:
            continue
        reached = tokens_to(loss, *(np.array(column, dtype=np.float64) for column in zip(*points, strict=True)))
        if reached is None:
            return None
        shares.append(reached / other.tokens - 1)
    if len(shares) < 2:
        return None
    saved = np.array(shares)
    return Effect(fmean(shares), interval(Side(0 * saved), Side(saved), fmean(shares), paired=True))
