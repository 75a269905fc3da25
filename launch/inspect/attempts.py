"""A run on the terminal: its attempts, its checkpoints, and the steps that a guard left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curriculum.artifact.files import ArtifactError
from curriculum.artifact.manifest import open_manifest
from train.records.skipped import SKIPPED, read_skipped

if TYPE_CHECKING:
    from train.report.records import Run

CHECKPOINTS = "checkpoints"
MOST = 8
"""Maximum number of attempts, and of steps, to show: the last ones."""


def lines_of(run: Run) -> Iterator[str]:
    """Yield the lines that apply to the run. Of a checkpoint, only the manifest is read."""
    yield f"RUN {run.folder}: arm {run.fact('arm')}, seed {run.fact('seed')}, {run.fact('status')}"
    yield from _attempts(run.fact("lives") or [])
    yield from _checkpoints(run.folder / CHECKPOINTS)
    yield from _left_out(run.folder / SKIPPED)


def _attempts(attempts: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each of the last attempts, with the changes accepted and the files set aside at its start."""
    if len(attempts) > MOST:
        yield f"attempts      {len(attempts)}, the last {MOST}:"
    for number, attempt in list(enumerate(attempts, start=1))[-MOST:]:
        yield f"{f'attempt {number}':<13} {_attempt(attempt)}"
        for change in attempt.get("accepted", []):
            yield f"              accepted {change['field']}: {change['old']!r} -> {change['new']!r}"
        if attempt.get("set_aside"):
            yield f"              damaged, set aside: {', '.join(attempt['set_aside'])}"


def _attempt(attempt: Mapping[str, Any]) -> str:
    """Return an attempt's start time, first step, ranks, ZeRO stage, code version and the signal that stopped it."""
    ranks = attempt.get("world_size")
    on = f", {ranks} rank{'s' * (ranks != 1)}, ZeRO {attempt.get('zero_stage')}" if ranks else ""
    code = attempt.get("versions", {}).get("pdpc")
    end = attempt.get("stopped")
    ended = f", stopped by {end['signal']} {end['at']}" if end else ""
    return f"{attempt['started_at']} from step {attempt['step']:,}{on}{f', PDPC {code}' if code else ''}{ended}"


def _checkpoints(folder: Path) -> Iterator[str]:
    """Yield a line for the checkpoints that have a manifest."""
    written: dict[int, str] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError, ArtifactError):
            if "." not in path.name:  # a name with a dot: being written, or set aside
                manifest = open_manifest(path, "checkpoint")
                written[int(manifest.facts["step"])] = manifest.created_at
    if written:
        steps = sorted(written)
        yield f"checkpoints   steps {_some([f'{step:,}' for step in steps])}; newest written {written[steps[-1]]}"


def _left_out(path: Path) -> Iterator[str]:
    """Yield the guard's record of skipped steps and rollbacks."""
    if not path.exists():
        return
    try:
        steps, back = read_skipped(path)
    except ArtifactError as error:
        yield f"skipped       ? {error}"
        return
    if steps:
        yield f"skipped       {len(steps):,} step{'s' * (len(steps) != 1)}: {_some(steps)}; samples in {SKIPPED}"
    if back:
        yield f"rolled back   from the weights of step {_some(back)}"


def _some(words: Sequence[str]) -> str:
    """Return the last words, after a count of the omitted ones."""
    before = f"{len(words) - MOST:,} more and " if len(words) > MOST else ""
    return before + ", ".join(words[-MOST:])
