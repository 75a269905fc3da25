"""The record of the steps that a guard skipped: which, why, and with which samples."""

from __future__ import annotations

import json
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


def _records(path: Path) -> list[tuple[str, dict[str, Any]]]:
    with reading(path, REMEDY):
        lines = [line for line in read_text(path, LARGEST_RECORDS).split("\n")[:-1] if line]
        entries = [json.loads(line) for line in lines]
        if not all(type(entry["step"]) is int for entry in entries):
            raise ValueError(f"{path} has a record whose step is not a number: {REMEDY}")
        return list(zip(lines, entries, strict=True))
