"""metrics.jsonl: the metrics of a run, one JSON object per line, in step order.

A recomputed record (`pdpc evaluate`) is appended at the end: of two records of one kind and step, the later one counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from curriculum.artifact.append import AppendedFile
from curriculum.artifact.files import LARGEST_RECORDS, read_text, reading, write_text
from train.records.layout import METRICS

Record = dict[str, Any]


NONFINITE = "nonfinite"
"""Key of a record that lists its non-finite values by name ("nan", "inf", "-inf"), which JSON numbers cannot hold."""


class MetricsFile:
    """`metrics.jsonl`; a resumed run drops the records after its checkpoint."""

    def __init__(self, folder: Path, resume_step: int) -> None:
        self.path = folder / METRICS
        kept = (
            [record for record in read_metrics(self.path) if record["step"] <= resume_step]
            if self.path.exists()
            else []
        )
        write_text(self.path, "".join(as_line(record) for record in kept))
        self.stages = {record["step"] for record in kept if record["kind"] == "stage"}
        self._file = AppendedFile(self.path)

    def append(self, record: Record) -> None:
        """Write and flush a record."""
        self._file.append(as_line(record).encode())
        self._file.flush()
        if record["kind"] == "stage":
            self.stages.add(record["step"])

    def sync(self) -> None:
        """Sync all records to disk. Raises Misplaced if another process moved the file or wrote to it."""
        self._file.sync()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def supersede_record(path: Path, record: Record) -> None:
    """Append a record that supersedes an earlier one of its kind and step; existing bytes do not change.

    Hold the run's lock: no run may be writing. Checkpoints store a checksum of the file as it was at save time
    (train/checkpoint/records.py), so the earlier record stays; a torn last line (of a killed writer) is removed.
    """
    text = path.read_text("utf-8")
    write_text(path, text[: text.rfind("\n") + 1] + as_line(record))


def as_line(record: Record) -> str:
    """Return a record as a line of strict JSON.

    Non-finite numbers become null and are listed by name under `nonfinite`: a loss of nan is recorded, and any JSON
    parser can read the line.
    """
    odd = {key: value for key, value in record.items() if isinstance(value, float) and not math.isfinite(value)}
    if odd:
        record = {**record, **dict.fromkeys(odd), NONFINITE: {key: str(float(value)) for key, value in odd.items()}}
    return json.dumps(record, allow_nan=False) + "\n"


def in_order(records: Iterable[Record]) -> list[Record]:
    """Return records sorted by step, the later one if a kind has a step twice: one continuous curve."""
    last = {(record["step"], record["kind"]): record for record in records}
    return sorted(last.values(), key=lambda record: record["step"])  # within a step: file order


def read_metrics(path: Path) -> list[Record]:
    """Return the records of a metrics file; a torn last line (of a killed writer) is ignored.

    Raises ValueError naming any other broken line.
    """
    records = []
    with reading(path, "the file was changed by hand; restore it"):
        lines = read_text(path, LARGEST_RECORDS).split("\n")
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
    """Parse a line as a record. Raises ValueError if it has no kind or no integer step."""
    record = json.loads(line)
    if not isinstance(record, dict) or type(record.get("step")) is not int or "kind" not in record:
        raise ValueError("no kind and step")
    return record
