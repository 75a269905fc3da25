"""Parquet files as text: rows by place, read in bounded memory."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from itertools import accumulate, chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from curriculum.artifact.parquet import open_parquet, rows_at_once
from curriculum.text.document import BadRecordError, BadRecords, Columns, Document, column_of, not_utf8

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET_ROWS = 256
REMEDY = "write the file with smaller row groups, or raise input.max_document_bytes (memory grows with it)"


class ParquetRows:
    """Rows of a Parquet file, with places spread evenly over its bytes.

    A range is read from the start of its first row's row group, or from the current position if that is closer.
    """

    def __init__(self, path: Path, columns: Columns, bad: BadRecords) -> None:
        self._path, self._columns, self._bad, self._size = path, columns, bad, path.stat().st_size
        self._groups: list[int] = []
        """First row of every row group, then the number of rows in the file."""
        self._left: Iterator[tuple[int, pa.RecordBatch]] = iter(())
        self._held: list[tuple[int, pa.RecordBatch]] = []
        """The batch that contains the end of the last range."""
        self._at_once = PARQUET_ROWS
        self._row: int | None = None
        """The next row; None: start from a row group."""
        self.span: tuple[int, int] | None = None

    def documents(self, start: int, stop: int) -> Iterator[tuple[int, Document]]:
        """Yield the documents of the rows whose places are in a range."""
        import pyarrow as pa

        row = 0
        try:
            self._groups = self._groups or self._read_groups()
            rows = self._groups[-1]
            first, last = (min(-(-place * rows // self._size), rows) for place in (start, stop))
            row = first
            for record in self._records(first, last):
                row += 1
                place = f"{self._path}, row {row}"
                try:
                    if isinstance(record, UnicodeDecodeError):
                        raise BadRecordError(place, not_utf8(record))
                    document = self._columns.document(record, place)
                except BadRecordError as error:
                    self._bad.add(error)
                    continue
                yield (row - 1) * self._size // rows, document
        except (pa.ArrowException, OSError) as error:
            raise ValueError(
                f"{self._path}, after row {row}: cannot be read as Parquet ({error}): the file is truncated or in "
                "another format; download it again"
            ) from error
        self.span = first, last

    def _read_groups(self) -> list[int]:
        with open_parquet(self._path) as file:
            schema = file.schema_arrow
            self._columns.check(schema.names, str(self._path))
            for name in self._columns.texts:
                self._check_type(name, schema)
            self._at_once = rows_at_once(
                self._path, file, self._columns.wanted, PARQUET_ROWS, self._columns.largest, REMEDY
            )
            sizes = [file.metadata.row_group(group).num_rows for group in range(file.metadata.num_row_groups)]
            return [0, *accumulate(sizes)]

    def _check_type(self, name: str, schema: pa.Schema) -> None:
        """Raise ValueError if a column, or the nested field that `name` is a path to, cannot hold text."""
        import pyarrow.types as types

        column = column_of(name, schema.names)
        assert column is not None, "checked with the names"
        kind = schema.field(column).type
        for part in name.removeprefix(column).split(".")[1:]:
            found = [kind.field(i).type for i in range(kind.num_fields) if kind.field(i).name == part]
            if not types.is_struct(kind) or len(found) != 1:
                said = "occurs more than once" if len(found) > 1 else f"is missing; column {column!r} contains {kind}"
                raise ValueError(f"{self._path}: nested field {name!r} {said}: set input.text_column, source_column")
            kind = found[0]
        kind = kind.value_type if types.is_dictionary(kind) else kind
        text = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
        if not any(holds(kind) for holds in text):
            raise ValueError(f"{self._path}: column {name!r} contains {kind}, not text: name another column")

    def _records(self, first: int, last: int) -> Iterator[dict[str, Any] | UnicodeDecodeError]:
        """Yield the rows first .. last - 1; one that is not UTF-8 as its error."""
        if first == last:
            return
        group = bisect_right(self._groups, first) - 1
        if self._row is None or not self._groups[group] <= self._row <= first:
            self._left, self._held = self._batches(group), []
        self._row = None  # until this range has been read to its end
        batches = chain(self._held, self._left)
        self._held = []
        for begin, batch in batches:
            end = begin + batch.num_rows
            if end > first:
                yield from _rows(batch.slice(max(first - begin, 0), min(end, last) - max(begin, first)))
            if end > last:
                self._held = [(begin, batch)]
            if end >= last:
                break
        self._row = last

    def _batches(self, group: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield (first row, batch), starting with a row group."""
        row = self._groups[group]
        with open_parquet(self._path) as file:
            groups = list(range(group, len(self._groups) - 1))
            for batch in file.iter_batches(batch_size=self._at_once, row_groups=groups, columns=self._columns.wanted):
                yield row, batch
                row += batch.num_rows


def _rows(batch: pa.RecordBatch) -> Iterable[dict[str, Any] | UnicodeDecodeError]:
    try:
        rows: list[dict[str, Any]] = batch.to_pylist()
        return rows
    except UnicodeDecodeError:
        return map(_row, (batch.slice(index, 1) for index in range(batch.num_rows)))


def _row(batch: pa.RecordBatch) -> dict[str, Any] | UnicodeDecodeError:
    try:
        row: dict[str, Any] = batch.to_pylist()[0]
        return row
    except UnicodeDecodeError as error:
        return error
