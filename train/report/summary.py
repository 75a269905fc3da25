"""What the comparison came to, in plain sentences and a few numbers."""

from dataclasses import dataclass
from statistics import median, quantiles

from train.report.gains import Gains
from train.report.measures import Measure, short_tokens
from train.report.records import Run, finite

ONE_SEED = (
    "One run an arm, one seed: this proves nothing either way. A difference counts when it holds over several seeds, "
    "with an interval."
)


@dataclass(frozen=True)
class Tile:
    """One number of the summary."""

    label: str
    value: str
    difference: str
    verdict: str


@dataclass(frozen=True)
class Throughput:
    """Speed of one arm, from its train records; the first one, which holds the start-up, is left out."""

    arm: str
    records: int
    tokens_per_s: float | None
    """Median over the records."""
    slow: float | None
    """10th percentile."""
    fast: float | None
    """90th percentile."""
    step_s: float | None
    """Median seconds a step."""
    evaluation_s: float | None
    """Seconds in all evaluations together."""


def headline(gains: Gains, runs: list[Run], arm: str) -> str:
    """One sentence: how far `arm` is from the baseline at the last tokens that both have, gain or loss."""
    measure = gains.headline_measure()
    number = gains.last_common(arm)
    cell, base = gains.cells[measure.key][number][arm], gains.cells[measure.key][number][gains.baseline]
    pair = {run.name: run for run in runs}
    done = pair[arm].finished and pair[gains.baseline].finished
    when = f"{'After' if done else 'So far, at'} {short_tokens(gains.points[number].tokens)} tokens"
    text = "held-out text" if measure.key == "val/loss" else measure.label
    if cell.value is None or base.value is None or cell.difference is None:
        return f"{when}, {arm} cannot be compared with {gains.baseline} on {text}: a value is missing."
    amount = measure.write_difference(abs(cell.difference)).lstrip("+")
    values = f"{measure.write(cell.value)} against {measure.write(base.value)}"
    if measure.unit == "nats":
        amount += " nats a token"
        if base.value:
            amount += f" ({100 * abs(cell.difference / base.value):.1f}%)"
    if cell.verdict == "equal":
        return f"{when}, {arm} does as well as {gains.baseline} on {text}: {values}."
    if cell.verdict == "no error bar":
        told = f"{when}, {arm} differs from {gains.baseline} on {text} by {amount}: {values}"
        return f"{told}; without an error bar, that may be noise."
    if cell.verdict == "within noise":
        return f"{when}, {arm} cannot be told from {gains.baseline} on {text}: {values}, a difference within noise."
    return f"{when}, {arm} is {amount} {cell.verdict} than {gains.baseline} on {text}: {values}."


def benchmarks(gains: Gains, arm: str) -> str:
    """One sentence that counts the benchmarks by verdict at the last common tokens; empty when there are none."""
    tasks = [measure for measure in gains.in_group("benchmark") if measure.key != "bench/avg"]
    cells = [gains.final(arm, measure) for measure in tasks]
    failed = sum(bool(cell.error) for cell in cells)
    compared = [cell.verdict for cell in cells if cell.verdict]
    if not compared and not failed:
        return ""
    counts = [
        f"{compared.count(name)} {name}"
        for name in ("better", "worse", "within noise", "equal", "no error bar")
        if name in compared
    ]
    if failed:
        counts.append(f"{failed} failed")
    many = f"{len(cells)} benchmark number{'s' if len(cells) > 1 else ''}"
    return f"{many} of {arm} against {gains.baseline}: {', '.join(counts)}."


def tiles(gains: Gains, arm: str) -> list[Tile]:
    """The few numbers that matter most at the last common tokens."""
    keys = ("val/loss", "val/low_pd/loss", "val/high_pd/loss", "bench/avg")
    chosen = [m for m in gains.measures if m.key in keys] or [gains.headline_measure()]
    return [_tile(measure, gains, arm) for measure in chosen]


def throughput(run: Run) -> Throughput:
    """The speed of one arm."""
    records = run.train[1:] or run.train
    speeds = [v for record in records if (v := finite(record, "throughput/tokens_per_s")) is not None]
    steps = [v for record in records if (v := finite(record, "time/step_s")) is not None]
    evaluations = [v for record in run.stages if (v := finite(record, "time/evaluation_s")) is not None]
    ends = quantiles(speeds, n=10, method="inclusive") if len(speeds) > 1 else None
    return Throughput(
        run.name,
        len(speeds),
        median(speeds) if speeds else None,
        ends[0] if ends else None,
        ends[-1] if ends else None,
        median(steps) if steps else None,
        sum(evaluations) if evaluations else None,
    )


def _tile(measure: Measure, gains: Gains, arm: str) -> Tile:
    cell = gains.final(arm, measure)
    return Tile(measure.label, measure.write(cell.value), measure.write_difference(cell.difference), cell.verdict)
