"""Preferences given as shares over progress: of sources, or of buckets in a table.

Shapes: S steps, K buckets, R rows of a table.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from curriculum.artifact.files import hash_file, read_bytes, reading
from curriculum.preference.base import SOURCE, Counts, Cut, Preference, Progress, ScoreCut

LARGEST_TABLE = 1 << 24
"""Most bytes of a CSV file of shares."""
ALL_GIVEN = 1e-9
"""Shares whose sum is within this of 1 leave nothing over: the difference is floating-point noise."""


BEYOND = "\0"
"""Key under which the CSV reader stores the values of a line beyond the last column."""


@dataclass(frozen=True)
class Mixture(Preference):
    """Buckets are sources; their shares of a batch are interpolated linearly between the given points."""

    name: str = "mixture"
    shares: dict[float, dict[str, float]] = field(default_factory=dict)
    """Shares by source at points of progress: {0.0: {code: 0.1}, 1.0: {code: 0.4}}. Sources that a point does not list
    split the rest by size. Shares that the corpus cannot provide are scaled to the nearest ones that it can."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stratify_by is not None:
            raise ValueError(f"preference.stratify_by={self.stratify_by}: a mixture moves source shares: use null")
        if not self.shares:
            raise ValueError("preference.shares is empty: give {0.0: {SOURCE: SHARE}, 1.0: {SOURCE: SHARE}}")
        for at, row in self.shares.items():
            if not 0.0 <= at <= 1.0:
                raise ValueError(f"preference.shares: progress {at} must be between 0 and 1")
            total = sum(row.values())
            if min(row.values(), default=0.0) < 0 or not total <= 1 + ALL_GIVEN:
                raise ValueError(f"preference.shares at {at}: {row} must be at least 0 and sum to at most 1")

    def cuts(self) -> list[Cut]:
        """Cut by source."""
        return [Cut(SOURCE)]

    def log_wish(self, progress: Progress, counts_K: Counts, names: Sequence[str]) -> NDArray[np.float64]:
        """Return the logarithm of the sources' shares, [S, K]."""
        unknown = sorted({name for row in self.shares.values() for name in row} - set(names))
        if unknown:
            raise ValueError(f"preference.shares names {', '.join(unknown)}, but the sources are {', '.join(names)}")
        points = sorted(self.shares)
        rows_RK = np.stack([_full_row(self.shares[at], counts_K, names) for at in points])
        return log_interpolated(self.folded(progress), np.array(points), rows_RK)


def _full_row(row: dict[str, float], counts_K: Counts, names: Sequence[str]) -> NDArray[np.float64]:
    """Return the share of every source; those that the row does not list split the rest."""
    share_K = np.array([row.get(name, 0.0) for name in names])
    rest_K = np.where([name in row for name in names], 0, counts_K)
    left = 1.0 - float(share_K.sum())
    if left < ALL_GIVEN:
        left = 0.0
    full_K: NDArray[np.float64] = share_K + left * rest_K / max(1, int(rest_K.sum()))
    return full_K


@dataclass(frozen=True)
class Table(ScoreCut):
    """Shares read from a CSV file: a column `progress` from 0 to 1 and one column per bucket, with its name."""

    name: str = "table"
    file: str = ""
    """CSV file. Buckets are named low and high, or q1, q2, ... from low to high."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.rows()  # report errors in the file before arranging starts

    def rows(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return progress [R] and shares [R, K]. Raises ValueError naming file, line and column."""
        path = Path(self.file)
        if not path.is_file():
            raise ValueError(f"preference.file={self.file!r} is not a file: give a CSV of bucket shares by progress")
        wanted = ["progress", *self.bucket_names([])]
        rows: list[list[float]] = []
        with reading(path, "fix that file"):
            text = read_bytes(path, LARGEST_TABLE).decode("utf-8-sig")
            reader = csv.DictReader(io.StringIO(text, newline=""), restkey=BEYOND)
            try:
                columns = reader.fieldnames or []
                if sorted(columns) != sorted(wanted):
                    raise ValueError(f"{path} has the columns {list(columns)}, but needs {wanted}")
                for row in reader:
                    rows.append(_numbers(path, reader.line_num, wanted, row))
                    if len(rows) > 1 and rows[-1][0] <= rows[-2][0]:
                        raise ValueError(
                            f"{path}, line {reader.line_num}: progress is {rows[-1][0]:g} after {rows[-2][0]:g}: "
                            "it must rise from line to line"
                        )
            except csv.Error as error:
                raise ValueError(f"{path}, line {reader.line_num + 1}: not CSV ({error}): fix that file") from error
        if not rows:
            raise ValueError(f"{path} has no rows: give at least one")
        table = np.array(rows)
        return table[:, 0], table[:, 1:]

    @property
    def inputs(self) -> dict[str, str]:
        """Digest of the file: different contents under the same name are a different preference."""
        return {"preference.file": hash_file(Path(self.file)).xxh3_128}

    def log_wish(self, progress: Progress, counts_K: Counts, names: Sequence[str]) -> NDArray[np.float64]:
        """Return the logarithm of the shares, interpolated between the table's rows, [S, K]."""
        points, rows_RK = self.rows()
        return log_interpolated(self.folded(progress), points, rows_RK)


def _numbers(path: Path, line: int, wanted: Sequence[str], row: dict[str, Any]) -> list[float]:
    """Return progress and shares of a line. Raises ValueError for an invalid line."""
    if beyond := row.get(BEYOND):
        raise ValueError(f"{path}, line {line}: {beyond[0]!r} is beyond its {len(wanted)} columns: remove it")
    numbers = [_number(path, line, name, row[name]) for name in wanted]
    if numbers[0] > 1:
        raise ValueError(f"{path}, line {line}: progress is {numbers[0]:g}: it must be between 0 and 1")
    if not any(numbers[1:]):
        raise ValueError(f"{path}, line {line}: no bucket has a share above 0: give at least one")
    return numbers


def _number(path: Path, line: int, column: str, text: str | None) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = np.nan
    if not 0.0 <= value < np.inf:
        raise ValueError(f"{path}, line {line}: {column} is {text!r}: it must be a number of at least 0")
    return value


def log_interpolated(
    middle_S: NDArray[np.float64], points_R: NDArray[np.float64], rows_RK: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return log shares [S, K], linear between rows and constant before the first and after the last."""
    columns: Sequence[NDArray[np.float64]] = [np.interp(middle_S, points_R, column) for column in rows_RK.T]
    with np.errstate(divide="ignore"):
        return np.log(np.stack(columns, axis=1))
