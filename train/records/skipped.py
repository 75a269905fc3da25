"""The record of the steps that a guard skipped: which, why, and with which samples."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum.artifact.files import LARGEST_RECORDS, read_text, reading

SKIPPED = "skipped.jsonl"
"""File of a run with one JSON object for every skipped step, and for every rollback."""
REMEDY = "restore it, or remove it to forget the skipped steps"


def skipped_until(path: Path, step: int) -> list[str]:
    """Return the lines of skipped.jsonl of steps up to `step`; a torn last line of a killed writer is dropped.

    Raises ArtifactError naming the file when a line is not a record.
    """
    return [line for line, entry in _records(path) if entry["step"] <= step]


def read_skipped(path: Path) -> tuple[list[str], list[str]]:
    """Return the skipped steps, `12 (not finite)`, and the rollbacks, `12 to those of 8`. Raises as `skipped_until`."""
    steps, back = [], []
    with reading(path, REMEDY):
        for _, entry in _records(path):
            if entry["reason"] == "rollback":
                back.append(f"{entry['step']:,} to those of {entry['weights_of_step']:,}")
            else:
                steps.append(f"{entry['step']:,} ({entry['reason'].replace('_', ' ')})")
    return steps, back


@dataclass(frozen=True)
class Lost:
    """The part of a run that the weights have not learnt from: steps that a guard skipped, or that were rolled back."""

    skipped: int = 0
    """Steps skipped."""
    rollbacks: int = 0
    steps: int = 0
    """Steps skipped or rolled back, each counted once."""
    tokens: int | None = 0
    """Labels in these steps; None in a record of an older PDPC."""


def lost_until(path: Path, step: int) -> Lost:
    """Return what a run lost in its first `step` steps. Raises as `skipped_until`.

    A rollback to the weights of step b at step s loses steps b + 1 to s. Two of them are nested or apart, because the
    first is followed by a checkpoint at its own step.
    """
    skipped: dict[int, int | None] = {}
    spans: dict[int, tuple[int, int | None]] = {}
    rollbacks = 0
    with reading(path, REMEDY):
        for entry in (entry for _, entry in _records(path) if entry["step"] <= step):
            if entry["reason"] == "rollback":
                rollbacks += 1
                spans[entry["weights_of_step"]] = (entry["step"], entry.get("tokens"))  # a later one is longer
            else:
                skipped[entry["step"]] = entry.get("tokens")
    outside = [at for at in skipped if not any(back < at <= last for back, (last, _) in spans.items())]
    steps = len(outside) + sum(last - back for back, (last, _) in spans.items())
    counted = [skipped[at] for at in outside] + [tokens for _, tokens in spans.values()]
    known = [tokens for tokens in counted if tokens is not None]
    return Lost(len(skipped), rollbacks, steps, sum(known) if len(known) == len(counted) else None)


def lost_steps(path: Path) -> set[int]:
    """Return the steps, from 0, that a run's weights have not learnt from; none without the file.

    See `lost_until` for rollbacks and errors. Records count steps from 1.
    """
    found: set[int] = set()
    for _, entry in _records(path) if path.is_file() else ():
        with reading(path, REMEDY):
            first = entry["weights_of_step"] if entry["reason"] == "rollback" else entry["step"] - 1
            found |= set(range(first, entry["step"]))
    return found


def _records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    with reading(path, REMEDY):
        lines = [line for line in read_text(path, LARGEST_RECORDS).split("\n")[:-1] if line]
        entries = [json.loads(line) for line in lines]
        if not all(type(entry["step"]) is int for entry in entries):
            raise ValueError(f"{path} has a record whose step is not a number: {REMEDY}")
        return list(zip(lines, entries, strict=True))
