"""The record of the steps that a guard left out of the weights: which, why, and of which samples."""

from __future__ import annotations

import json
from pathlib import Path

from curriculum.artifact import reading

SKIPPED = "skipped.jsonl"
"""File of a run with one JSON object for every step that was left out of the weights, and for every way back."""


def skipped_until(path: Path, step: int | None = None) -> list[str]:
    """Return the lines of skipped.jsonl of steps up to `step`; a torn last line, of a killed writer, is left out.

    Raises ArtifactError naming the file when one is not a record.
    """
    with reading(path, "restore it, or remove it to forget what was left out"):
        lines = [line for line in path.read_text("utf-8").split("\n")[:-1] if line]
        steps = [json.loads(line)["step"] for line in lines]
        return [line for line, at in zip(lines, steps, strict=True) if step is None or at <= step]
