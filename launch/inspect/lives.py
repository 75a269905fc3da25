"""A run on the terminal: the lives it has had, the checkpoints it keeps, the steps that a guard left out."""

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
"""Most lives, and most steps, that are shown: the last ones."""


def lines_of(run: Run) -> Iterator[str]:
    """Yield the lines; what the run has not had has none. Of a checkpoint the manifest alone is read."""
    yield f"RUN {run.folder}: arm {run.fact('arm')}, seed {run.fact('seed')}, {run.fact('status')}"
    yield from _lives(run.fact("lives") or [])
    yield from _checkpoints(run.folder / CHECKPOINTS)
    yield from _left_out(run.folder / SKIPPED)


def _lives(lives: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield a line for each of the last lives, and what was accepted or found damaged when it began."""
    if len(lives) > MOST:
        yield f"lives         {len(lives)}, of which the last {MOST}:"
    for number, life in list(enumerate(lives, start=1))[-MOST:]:
        yield f"{f'life {number}':<13} {_life(life)}"
        for change in life.get("accepted", []):
            yield f"              accepted {change['field']}: {change['old']!r} before, {change['new']!r} since"
        if life.get("set_aside"):
            yield f"              found damaged and set aside: {', '.join(life['set_aside'])}"


def _life(life: Mapping[str, Any]) -> str:
    """Return when a life began, where, on what, and by which code."""
    ranks = life.get("world_size")
    on = f", {ranks} rank{'s' * (ranks != 1)} at ZeRO {life.get('zero_stage')}" if ranks else ""
    code = life.get("versions", {}).get("pdpc")
    return f"{life['started_at']} from step {life['step']:,}{on}{f', PDPC {code}' if code else ''}"


def _checkpoints(folder: Path) -> Iterator[str]:
    """Yield a line about the checkpoints that have a manifest."""
    written: dict[int, str] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        with suppress(OSError, ArtifactError):
            if "." not in path.name:  # else it is being written, or was set aside
                manifest = open_manifest(path, "checkpoint")
                written[int(manifest.facts["step"])] = manifest.created_at
    if written:
        steps = sorted(written)
        told = _some([f"{step:,}" for step in steps])
        yield f"checkpoints   after steps {told}; the newest was written {written[steps[-1]]}"


def _left_out(path: Path) -> Iterator[str]:
    """Yield what a guard's record says."""
    if not path.exists():
        return
    try:
        steps, back = read_skipped(path)
    except ArtifactError as error:
        yield f"left out      ? {error}"
        return
    if steps:
        yield f"left out      {len(steps):,} step{'s' * (len(steps) != 1)}: {_some(steps)}; {SKIPPED} names the samples"
    if back:
        yield f"went back     from the weights of step {_some(back)}"


def _some(words: Sequence[str]) -> str:
    """Return the last words, and how many there are before them."""
    before = f"{len(words) - MOST:,} more and " if len(words) > MOST else ""
    return before + ", ".join(words[-MOST:])
