"""What a study will run: steps, runs, tokens, hours and disk, before anything starts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from statistics import median

from rich.console import Console

from curriculum.work.console import PlainConsole, say
from launch.study.file import Study
from launch.study.progress import size_of
from launch.study.runner import is_done
from launch.study.steps import Run, Steps
from train.tracking import read_metrics


def show_plan(
    study: Study,
    steps: Steps,
    folder: Path,
    tokens_per_s: float | None,
    room: int | list[str],
    console: Console | None = None,
) -> None:
    """Print what is done, what is missing, and what that takes, as far as it is known."""
    console = console or PlainConsole()
    places = room if isinstance(room, int) else len(room)
    done = {step.name for step in steps.all if is_done(folder, step)}
    verbs = Counter(step.verb for step in steps.all if step.name not in done)
    missing = [run for run in steps.runs if run.step.name not in done]
    say(console, study.question)
    primary = study.primary
    when = f" ({primary.schedule})" if len(study.schedules) > 1 else ""
    say(
        console,
        f"primary measure: {primary.measure} of {primary.arm}{when} compared with {study.baseline}",
    )
    counts = f"{len(study.arms)} arms x {len(study.seeds)} seeds"
    counts += f", {len(study.schedules)} schedules" if len(study.schedules) > 1 else ""
    say(console, f"{counts} = {len(steps.runs)} runs into {folder}")
    say(console, f"done: {len(done)} of {len(steps.all)} steps; missing: {_listed(verbs)}")
    known: dict[str, int] = {}
    sizes = [size for run in missing if (size := size_of(run, steps, known)) is not None]
    if missing and not sizes:
        say(console, "tokens, hours: known once the orders are made")
    if sizes:
        tokens = round(sum(sizes) / len(sizes) * len(missing))
        say(console, f"tokens: {tokens:,} in {len(missing)} runs")
        speeds = [speed for run in steps.runs if (speed := _speed_of(run)) is not None]
        speed = tokens_per_s or (median(speeds) if speeds else None)
        widths = [run.step.width or places for run in missing]
        together = max(1, places // max(widths))
        if speed is None:
            say(console, "hours: known once a run has finished, or with tokens_per_s=")
        else:
            how = "given" if tokens_per_s else f"median of {len(speeds)} runs"
            hours = tokens / speed / together / 3600
            say(console, f"hours: {hours:.1f} for training at {speed:,.0f} tokens/s ({how}), {together} runs at once")
    kept = [_bytes_in(run.step.output) for run in steps.runs if run.step.name in done]
    if kept and missing:
        each = sum(kept) / len(kept)
        say(console, f"disk: {each * len(missing) / 1e9:.2f} GB more for runs, as measured in {len(kept)}")


def _listed(verbs: Counter[str]) -> str:
    return ", ".join(f"{number} {verb}" for verb, number in verbs.items()) or "nothing"


def _speed_of(run: Run) -> float | None:
    """Return a run's median tokens/s; None if it has recorded none."""
    path = run.step.output / "metrics.jsonl"
    if not path.is_file():
        return None
    speeds = [record["throughput/tokens_per_s"] for record in read_metrics(path) if "throughput/tokens_per_s" in record]
    return median(speeds) if speeds else None


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
