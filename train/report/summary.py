"""The result of the comparison in plain sentences and a few numbers."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles

from train.report.arms import Arm, counted
from train.report.gains import NO_ERROR_BAR, UNDECIDED, VERDICTS, Cell, Gains
from train.report.measures import Measure, short_tokens
from train.report.records import finite

ONE_SEED = (
    "One seed per arm: the intervals cover only the choice of evaluation items, for this one pair of runs. "
    "Another seed may flip the sign; trust a difference only when it holds across several seeds."
)
ONE_SIDED = "Only one seed for {arms}: the seed-to-seed variance is assumed to equal the other arm's."
FEW_SEEDS = (
    "With only {seeds} the intervals are wide: a difference is significant from {times} times the standard deviation "
    "of the per-seed differences."
)
MANY_MEASURES = (
    "The intervals are not corrected for multiple comparisons: of {count} measures without any real difference, about "
    "{chance} per stage would be called better or worse by chance."
)
METHODS = {
    "items": "paired by item, one seed",
    "items and seeds": "paired by item, over seeds",
    "seeds": "from seeds only",
    "standard errors": "from standard errors, unpaired",
    "standard errors and seeds": "from standard errors, unpaired, and seeds",
    "": "",
}
"""`Interval.method` in words for the reader."""
COUNTED = {UNDECIDED: f"with {UNDECIDED}", NO_ERROR_BAR: "without an error bar"}
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
    number = gains.last_common(arm)
    cell, base = gains.final(arm, measure), gains.final_baseline(arm, measure)
    done = all(one.finished for one in arms if one.name in (arm, gains.baseline))
    when = f"{'After' if done else 'So far, at'} {short_tokens(gains.points[number].tokens)} tokens"
    text = "held-out text" if measure.key == "val/loss" else measure.label
    if cell.value is None or base.value is None or cell.gain is None:
        return f"{when}, {arm} cannot be compared with {gains.baseline} on {text}: a value is missing."
    amount = measure.write_difference(abs(cell.gain.value)).lstrip("+")
    values = f"{measure.write(cell.value)} vs. {measure.write(base.value)}"
    if measure.unit in ("nats", "bits"):
        amount += f" {measure.words}"
        if base.value:
            amount += f" ({100 * abs(cell.gain.value / base.value):.1f}%)"
    when += f" ({seed_counts(cell, base)})"
    if cell.verdict == "equal":
        return f"{when}, {arm} and {gains.baseline} are equal on {text}: {values}."
    if cell.verdict == NO_ERROR_BAR:
        side = "below" if cell.gain.value < 0 else "above"
        return f"{when}, {arm} is {amount} {side} {gains.baseline} on {text}, which may be chance: {values}."
    if cell.verdict == UNDECIDED:
        return f"{when}, there is {UNDECIDED} between {arm} and {gains.baseline} on {text}: {values}."
    return f"{when}, {arm} is {amount} {cell.verdict} than {gains.baseline} on {text}: {values}."


def confidence(gains: Gains, arm: str) -> str:
    """Return one sentence: the confidence interval of the headline difference; empty if nothing is compared."""
    measure = gains.headline_measure()
    gain = gains.final(arm, measure).gain
    if gain is None:
        return ""
    if gain.low is None:
        return "No error bar: that needs per-item answers or standard errors for both arms, or several seeds."
    written = measure.write_interval(gain.low, gain.high)
    return f"The 95% confidence interval of the difference is {written} {measure.words} ({METHODS[gain.method]})."


def seed_counts(cell: Cell, base: Cell) -> str:
    """Return the number of seeds behind a gain: `3 seeds each`, or `3 seeds vs. 1`."""
    same = cell.seeds == base.seeds
    return f"{counted(cell.seeds)} each" if same else f"{counted(cell.seeds)} vs. {base.seeds}"


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
    """Return caveats about the intervals: few seeds, many measures."""
    result = []
    counts = [len(arm.runs) for arm in arms]
    if max(counts) == 1:
        result.append(ONE_SEED)
    elif min(counts) == 1:
        result.append(ONE_SIDED.format(arms=" and ".join(arm.name for arm in arms if len(arm.runs) == 1)))
    elif min(counts) <= 3:
        result.append(FEW_SEEDS.format(seeds=counted(min(counts)), times={2: 9, 3: 2.5}[min(counts)]))
    count = len(gains.measures)
    if count >= 10:
        result.append(MANY_MEASURES.format(count=count, chance=max(1, round(0.05 * count))))
    return result


def headline_measures(gains: Gains) -> list[Measure]:
    """Return the measures for the top of the page."""
    return [m for m in gains.measures if m.key in HEADLINE_KEYS] or [gains.headline_measure()]


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
