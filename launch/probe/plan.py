"""What a probe will run: branches, tokens, hours and disk, before anything starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from rich.console import Console

from curriculum.work.console import PlainConsole, say
from launch.probe.trunk import Trunk
from launch.study.runner import is_done
from launch.study.steps import Step
from train.records.layout import EXPORT, METRICS
from train.tracking import read_metrics


def show_plan(
    trunk: Trunk,
    commands: Sequence[Step],
    tokens_per_branch: int,
    trunk_tokens: int,
    notes: Sequence[str],
    output: Path,
    console: Console | None = None,
) -> None:
    """Print what is done, what is missing, and what that takes, as far as it is known."""
    console = console or PlainConsole()
    missing = [step for step in commands if not is_done(output, step)]
    say(console, f"{len(commands)} branches of {tokens_per_branch:,} tokens each from {trunk.folder} into {output}")
    for note in notes:
        say(console, f"note: {note}")
    tokens = tokens_per_branch * len(missing)
    share = f"{100 * tokens / trunk_tokens:.0f} % of the run's"
    say(console, f"done: {len(commands) - len(missing)}; missing: {len(missing)} branches, {tokens:,} tokens ({share})")
    metrics = trunk.folder / METRICS
    speeds = [
        record["throughput/tokens_per_s"]
        for record in (read_metrics(metrics) if metrics.is_file() else [])
        if "throughput/tokens_per_s" in record
    ]
    if speeds and missing:
        hours = tokens / median(speeds) / 3600
        say(
            console,
            f"hours: {hours:.1f} of training, one branch after another at the run's {median(speeds):,.0f} tokens/s",
        )
    each = _bytes_in(next(iter(trunk.checkpoints.values()))) + _bytes_in(trunk.folder / EXPORT)
    say(console, f"disk: {each * len(missing) / 1e9:.2f} GB more (a checkpoint and an export per branch)")


def _bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
