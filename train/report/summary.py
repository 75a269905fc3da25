"""The result of the comparison in plain sentences and a few numbers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles, variance

from train.report.arms import Arm, counted
from train.report.comparison import ONE_SEED, Gain
from train.report.gains import Gains
from train.report.measures import Measure, short_tokens
from train.report.records import finite
from train.report.verdicts import NO_ERROR_BAR, NO_VERDICT, SUGGESTIVE, UNDECIDED, VERDICTS

ONE_SEED_EACH = (
    "One seed per arm: no verdict on the order. The intervals cover only the choice of evaluation items, for this one "
    "pair of runs; two runs of the same arm with other seeds may differ by more, in either direction."
)
ONE_SIDED = "Only one seed for {arms}: the seed-to-seed variance is assumed to equal the other arm's."
FEW_SEEDS = (
    "With only {seeds} the intervals are wide: a difference is significant from {times} times the standard deviation "
    "of the per-seed differences."
)
MANY_MEASURES = (
    "Of {count} measures without any real difference, about {chance} per stage would have an interval that excludes "
    "zero by chance. Such a difference is called suggestive, unless it holds after correction for their number (Holm)."
)
UNGROUPED = (
    "The answers of {runs} were stored by an earlier version and do not say which items belong together: their "
    "intervals count the windows of a document, and the questions about a passage, as independent and are too narrow. "
    "Evaluate the stage again: pdpc evaluate run=RUN stages=N."
)
POWER = 2.8
"""Sum of the normal quantiles for 95 % confidence and 80 % power."""
METHODS = {
    "items": "paired by item, one pair of runs",
    "items and seeds": "paired by item, over seeds",
    "seeds": "from seeds only",
    "standard errors": "from standard errors, unpaired, one pair of runs",
    "standard errors and seeds": "from standard errors, unpaired, and seeds",
    "": "",
}
"""`Interval.method` in words for the reader."""
COUNTED = {
    UNDECIDED: f"with {UNDECIDED}",
    SUGGESTIVE: "with a suggestive difference",
    NO_VERDICT: "without a verdict",
    NO_ERROR_BAR: "without an error bar",
}
"""Verdicts as worded after a count."""
HEADLINE_KEYS = ("val/loss", "val/bits_per_byte", "val/low_pd/loss", "val/high_pd/loss", "bench/avg")


@dataclass(frozen=True)
class Throughput:
    """Speed of one arm, from its train records; the first record is left out because it includes the start-up."""

    arm: str
    records: int
    tokens_per_s: float | None
    """Median over the records."""
    slow: float | None
    """10th percentile."""
    fast: float | None
    """90th percentile."""
    step_s: float | None
    """Median seconds per step."""
    evaluation_s: float | None
    """Total evaluation seconds per run, mean over seeds."""


def headline(gains: Gains, arms: Sequence[Arm], arm: str) -> str:
    """Return one sentence: the difference of `arm` from the baseline at the last evaluation both have."""
    measure = gains.headline_measure()
    cell = gains.final(arm, measure)
    gain, base = cell.gain, gains.baseline
    done = all(one.finished for one in arms if one.name in (arm, base))
    when = f"{'After' if done else 'So far, at'} {short_tokens(gains.points[gains.last_common(arm)].tokens)} tokens"
    text = "held-out text" if measure.key == "val/loss" else measure.label
    if gains.target is not None:
        text = f"held-out {gains.target}"
    if gain is None:
        why = cell.note if cell.note and cell.value is not None else "a value is missing"
        return f"{when}, {arm} cannot be compared with {base} on {text}: {why}."
    amount = measure.write_difference(abs(gain.value)).lstrip("+")
    values = f"{measure.write(gain.own)} vs. {measure.write(gain.base)}"
    if measure.unit in ("nats", "bits"):
        amount += f" {measure.words}"
        if gain.base:
            amount += f" ({100 * abs(gain.value / gain.base):.1f}%)"
    when += f" ({'; '.join([seed_counts(gain), *gain.notes])})"
    if gain.verdict == "equal":
        return f"{when}, {arm} and {base} are equal on {text}: {values}."
    side = "below" if gain.value < 0 else "above"
    if gain.verdict == NO_ERROR_BAR:
        return f"{when}, {arm} is {amount} {side} {base} on {text}, which may be chance: {values}."
    if gain.verdict == NO_VERDICT and gain.withheld == ONE_SEED:
        return (
            f"{when}, one run of {arm} is {amount} {side} one run of {base} on {text}: {values}. "
            "One seed per arm allows no verdict on the order."
        )
    if gain.verdict == NO_VERDICT:
        return f"{when}, there is no verdict on {arm} and {base} on {text}: {values} ({gain.withheld})."
    if gain.verdict == UNDECIDED:
        return f"{when}, there is {UNDECIDED} between {arm} and {base} on {text}: {values}."
    if gain.verdict == SUGGESTIVE:
        return (
            f"{when}, {arm} is {amount} {side} {base} on {text}, which is suggestive only, as several arms are "
            f"compared: {values}."
        )
    return f"{when}, {arm} is {amount} {gain.verdict} than {base} on {text}: {values}."


def confidence(gains: Gains, arm: str) -> str:
    """Return one sentence: the confidence interval of the headline difference; empty if nothing is compared."""
    measure = gains.headline_measure()
    gain = gains.final(arm, measure).gain
    if gain is None:
        return ""
    if gain.low is None:
        return "No error bar: that needs per-item answers or standard errors for both arms, or several seeds."
    written = measure.write_interval(gain.low, gain.high)
    ends = f"{written} {measure.words} ({METHODS[gain.method]})"
    if gain.withheld == ONE_SEED:
        return f"For these two runs only, the 95% interval over other evaluation items is {ends}."
    return f"The 95% confidence interval of the difference is {ends}."


def price(gains: Gains, arm: str) -> str:
    """Return one sentence: what the target's gain costs on all held-out text; empty without a target."""
    measure = next((measure for measure in gains.measures if measure.key == "val/loss"), None)
    gain = None if measure is None else gains.final(arm, measure).gain
    if gains.target is None or measure is None or gain is None:
        return ""
    ends = f" (95% interval {measure.write_interval(gain.low, gain.high)})" if gain.low is not None else ""
    return f"On all held-out text, {arm} differs by {measure.write_difference(gain.value)}{ends}: {gain.verdict}."


def seeds_needed(gains: Gains, arm: str, seed_deviation: float | None) -> str:
    """Return one sentence: how many pairs of seeds would show the headline difference; empty after a verdict.

    If the choice of items alone leaves a wider interval than the difference, no number of seeds would: it says so.
    The standard deviation over seeds is that of the arms with several seeds in the report, or else `seed_deviation`
    (for a held-out loss). A difference of two seeds deviates by sqrt(2) times as much.
    """
    measure, number = gains.headline_measure(), gains.last_common(arm)
    gain = gains.final(arm, measure).gain
    if gain is None or gain.verdict not in (NO_VERDICT, UNDECIDED, NO_ERROR_BAR) or gain.withheld not in ("", ONE_SEED):
        return ""
    if gain.floor >= abs(gain.value):
        left = measure.write_difference(gain.floor).lstrip("+")
        return (
            f"More seeds alone would not show such a difference: the choice of evaluation items leaves \u00b1{left} "
            "at any number of seeds. Evaluate on more of them."
        )
    known = {name: cell.values for name, cell in gains.cells[measure.key][number].items() if cell.seeds > 1}
    freedom = sum(len(values) - 1 for values in known.values())
    if freedom:
        pooled = sum((len(values) - 1) * variance(values) for values in known.values()) / freedom
        deviation, origin = math.sqrt(pooled), f"of the seeds of {', '.join(known)}"
    elif seed_deviation is not None and measure.key == "val/loss":
        deviation, origin = seed_deviation, "given by seed_deviation"
    else:
        return (
            "How many seeds would show such a difference is unknown: train several seeds of one arm, or give the "
            "standard deviation over seeds of earlier runs as seed_deviation."
        )
    pairs = (POWER * math.sqrt(2) * deviation / abs(gain.value)) ** 2 + 2 if gain.value else math.inf
    many = f"about {math.ceil(pairs - 1e-9)}" if pairs <= 1000 else "more than 1,000"
    spread = measure.write_difference(deviation).lstrip("+")
    return f"With a standard deviation of {spread} ({origin}), {many} pairs of seeds would show such a difference."


def seed_counts(gain: Gain) -> str:
    """Return the number of seeds behind a gain: `3 seeds each`, or `3 seeds vs. 1`."""
    same = gain.seeds == gain.base_seeds
    return f"{counted(gain.seeds)} each" if same else f"{counted(gain.seeds)} vs. {gain.base_seeds}"


def benchmarks(gains: Gains, arm: str) -> str:
    """Return one sentence that counts benchmarks by verdict at the last common evaluation; empty without benchmarks."""
    tasks = [measure for measure in gains.in_group("benchmark") if measure.key != "bench/avg"]
    cells = [gains.final(arm, measure) for measure in tasks]
    failed = sum(bool(cell.error) for cell in cells)
    compared = [cell.verdict for cell in cells if cell.verdict]
    if not compared and not failed:
        return ""
    counts = [f"{compared.count(name)} {COUNTED.get(name, name)}" for name in VERDICTS if name in compared]
    if failed:
        counts.append(f"{failed} failed")
    many = f"{len(cells)} benchmark metric{'s' if len(cells) > 1 else ''}"
    return f"{many} of {arm} compared with {gains.baseline}: {', '.join(counts)}."


def cautions(gains: Gains, arms: Sequence[Arm]) -> list[str]:
    """Return caveats about the intervals: few seeds, many measures, answers without groups."""
    result = []
    counts = [len(arm.runs) for arm in arms]
    if max(counts) == 1:
        result.append(ONE_SEED_EACH)
    elif min(counts) == 1:
        result.append(ONE_SIDED.format(arms=" and ".join(arm.name for arm in arms if len(arm.runs) == 1)))
    elif min(counts) <= 3:
        result.append(FEW_SEEDS.format(seeds=counted(min(counts)), times={2: 9, 3: 2.5}[min(counts)]))
    count = len(gains.measures)
    if count >= 10 and max(counts) > 1:
        result.append(MANY_MEASURES.format(count=count, chance=max(1, round(0.05 * count))))
    if gains.ungrouped:
        result.append(UNGROUPED.format(runs=", ".join(gains.ungrouped)))
    return result


def headline_measures(gains: Gains) -> list[Measure]:
    """Return the measures for the top of the page, a target first."""
    primary = gains.headline_measure()
    others = [m for m in gains.measures if m.key in HEADLINE_KEYS]
    return [primary, *others] if gains.target is not None else others or [primary]


def throughput(arm: Arm) -> Throughput:
    """Return the speed of one arm, over all its seeds."""
    records = [record for run in arm.runs for record in run.train[1:] or run.train]
    speeds = [v for record in records if (v := finite(record, "throughput/tokens_per_s")) is not None]
    steps = [v for record in records if (v := finite(record, "time/step_s")) is not None]
    stages = [record for run in arm.runs for record in run.stages]
    evaluations = [v for record in stages if (v := finite(record, "time/evaluation_s")) is not None]
    ends = quantiles(speeds, n=10, method="inclusive") if len(speeds) > 1 else None
    return Throughput(
        arm.name,
        len(speeds),
        median(speeds) if speeds else None,
        ends[0] if ends else None,
        ends[-1] if ends else None,
        median(steps) if steps else None,
        sum(evaluations) / len(arm.runs) if evaluations else None,
    )
