"""metrics.jsonl: what a run measured, one JSON object a line, in step order.

A record that was made again (`pdpc evaluate`) stands at the end: of a kind and step, the later one counts.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from curriculum.artifact.manifest import reading, write_text

Record = dict[str, Any]

METRICS = "metrics.jsonl"

NONFINITE = "nonfinite"
"""Key of a record under which values that JSON has no number for stand by name: "nan", "inf", "-inf"."""


class MetricsFile:
    """`metrics.jsonl`; a resumed run drops what came after its checkpoint."""

    def __init__(self, folder: Path, resume_step: int) -> None:
        self.path = folder / METRICS
        kept = (
            [record for record in read_metrics(self.path) if record["step"] <= resume_step]
            if self.path.exists()
            else []
        )
        write_text(self.path, "".join(as_line(record) for record in kept))
        self.stages = {record["step"] for record in kept if record["kind"] == "stage"}
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  # held until close()

    def append(self, record: Record) -> None:
        """Write a record; it is in the file when this returns."""
        self._file.write(as_line(record))
        self._file.flush()
        if record["kind"] == "stage":
            self.stages.add(record["step"])

    def sync(self) -> None:
        """Make every record durable."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def make_again(path: Path, record: Record) -> None:
    """Put a record in the place of an earlier one of its kind and step; what is in the file stays, to the byte.

    No run may be writing: hold its lock. Checkpoints vouch for what the file held then (train/checkpoint/records.py),
    so the earlier record is not touched; a torn last line (of a killed writer) goes.
    """
    text = path.read_text("utf-8")
    write_text(path, text[: text.rfind("\n") + 1] + as_line(record))


def as_line(record: Record) -> str:
    """Return a record as a line of strict JSON.

    A number that is not finite becomes null, and its name stands under `nonfinite`: a loss of nan is on record, and
    every JSON reader reads the line.
    """
    odd = {key: value for key, value in record.items() if isinstance(value, float) and not math.isfinite(value)}
    if odd:
        record = {**record, **dict.fromkeys(odd), NONFINITE: {key: str(float(value)) for key, value in odd.items()}}
    return json.dumps(record, allow_nan=False) + "\n"


def in_order(records: Iterable[Record]) -> list[Record]:
    """Return records by step, the later one where a kind has a step twice: one unbroken curve."""
    last = {(record["step"], record["kind"]): record for record in records}
    return sorted(last.values(), key=lambda record: record["step"])  # of a step, in the order of the file


def read_metrics(path: Path) -> list[Record]:
    """Return the records of a metrics file; a torn last line (of a killed writer) is left out.

    Raises ValueError naming a broken line elsewhere.
    """
    records = []
    with reading(path, "the file was changed by hand; restore it"):
        lines = path.read_text("utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            records.append(_record(line))
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise ValueError(
                f"{path} line {number} is not a record ({error}): the file was changed by hand; restore it"
            ) from error
    return records


def _record(line: str) -> Record:
    """Return a line as a record. Raises ValueError for one that does not say its kind and its step."""
    record = json.loads(line)
    if not isinstance(record, dict) or type(record.get("step")) is not int or "kind" not in record:
        raise ValueError("it has no kind and step")
    return record
