"""The user's own scores: Parquet with numbers by sample or by document.

A file, or a folder of files read in name order. Columns: `sample` (ids 0 .. n - 1 in any order) or `document` (the
document's ordinal in the text that `prepare` read), or neither (row i is sample i); `source` (a name, for use without
TOKENS); every other numeric column is a score.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from curriculum.artifact.files import LARGEST_TEXT, fingerprint_of, hash_file, reading
from curriculum.artifact.mapped import Stamp, UnreadableError
from curriculum.artifact.parquet import open_parquet, rows_at_once

BATCH_ROWS = 1 << 20
SAMPLE, DOCUMENT, SOURCE = "sample", "document", "source"


class OwnScores:
    """Own scores opened from Parquet. `names` are the score columns, `rows` the number of rows."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        files = sorted(self.path.glob("*.parquet")) if self.path.is_dir() else [self.path]
        if not files or not all(file.is_file() for file in files):
            raise ValueError(f"own_scores={self.path} does not exist: give a Parquet file or a folder of *.parquet")
        self._paths, self._stamps = files, [Stamp.of(file) for file in files]
        described = [_described(file) for file in files]
        schema = described[0][0]
        for file, (other, _) in zip(files, described, strict=True):
            if not other.equals(schema):
                raise ValueError(
                    f"own_scores: the columns of {file} differ from those of {files[0]}: write the same columns to both"
                )
        duplicates = [name for name in schema.names if schema.names.count(name) > 1]
        if duplicates:
            raise ValueError(f"own_scores={self.path}: two columns are named {duplicates[0]!r}: rename one")
        if {SAMPLE, DOCUMENT} <= set(schema.names):
            raise ValueError(f"own_scores={self.path} has both {SAMPLE!r} and {DOCUMENT!r} columns: keep only one")
        self.rows = sum(rows for _, rows in described)
        self.names = [field.name for field in schema if _is_score(field)]
        self.by = next((name for name in (SAMPLE, DOCUMENT) if name in schema.names), None)
        self.has_sources = SOURCE in schema.names
        if not self.names:
            raise ValueError(f"own_scores={self.path} has no score column among {schema.names}: add a numeric one")
        if self.rows == 0:
            raise ValueError(f"own_scores={self.path} has no rows: write the scores first")

    @cached_property
    def fingerprint(self) -> str:
        """Digest of the files' contents. Reads the files."""
        return fingerprint_of([hash_file(path).xxh3_128 for path in self._paths])

    def recheck(self) -> None:
        """Raise ArtifactError if a file changed since it was opened."""
        for path, before in zip(self._paths, self._stamps, strict=True):
            if (now := Stamp.of(path)) != before:
                raise UnreadableError(
                    f"own_scores={path} changed while it was being read: {before.difference(now)}; run the same "
                    "command again once it is complete"
                )

    @cached_property
    def sources(self) -> list[str]:
        """Distinct names in the column `source`, sorted. Reads the column."""
        names: set[str] = set()
        for batch in self._batches([SOURCE]):
            names.update(pc.unique(batch.column(0).cast(pa.string())).to_pylist())
        if None in names:
            raise ValueError(f"own_scores={self.path}: a row has a null source: name the source in every row")
        return sorted(names)

    def chunks(self, names: Sequence[str], with_source: bool) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield columns in sample order, in pieces of arbitrary length: float32, and `source` as codes.

        Raises ValueError for missing or duplicate ids.
        """
        if self._permutation is not None:
            whole = self._whole(names, with_source)
            yield {name: column[self._permutation] for name, column in whole.items()}
            return
        yield from self._read(names, with_source)

    def documents(self, names: Sequence[str]) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float32]]]:
        """Return the document ordinals, increasing, and the scores in that order. Raises ValueError for duplicates."""
        ids = self._ids(DOCUMENT)
        order = np.argsort(ids, kind="stable")
        ids = ids[order]
        twice = np.flatnonzero(ids[1:] == ids[:-1])
        if len(twice):
            raise ValueError(
                f"own_scores={self.path}: document {ids[twice[0]]} is listed twice ({len(twice)} duplicate rows): "
                "keep one row per document"
            )
        return ids, {name: column[order] for name, column in self._whole(names, False).items()}

    @cached_property
    def _permutation(self) -> NDArray[np.int64] | None:
        """Row of every sample, or None if the rows are already in order. Reads the ids once."""
        if self.by != SAMPLE:
            return None
        start = 0
        for batch in self._batches([SAMPLE]):
            ids = _whole_numbers(self.path, SAMPLE, batch.column(0))
            if not np.array_equal(ids, np.arange(start, start + len(ids))):
                break
            start += len(ids)
        if start == self.rows:
            return None
        ids = self._ids(SAMPLE)
        outside = np.flatnonzero((ids < 0) | (ids >= self.rows))
        counts = np.bincount(np.delete(ids, outside), minlength=self.rows)
        missing, twice = np.flatnonzero(counts == 0), np.flatnonzero(counts > 1)
        if len(missing):
            found = (
                f"sample {twice[0]} occurs {counts[twice[0]]} times" if len(twice) else f"{ids[outside[0]]} is present"
            )
            raise ValueError(
                f"own_scores={self.path} has {self.rows} rows, but no row for sample {missing[0]} ({len(missing)} are "
                f"missing; {found}): give each of the samples 0 to {self.rows - 1} once"
            )
        return np.argsort(ids, kind="stable")

    def _ids(self, name: str) -> NDArray[np.int64]:
        return np.concatenate([_whole_numbers(self.path, name, batch.column(0)) for batch in self._batches([name])])

    def _whole(self, names: Sequence[str], with_source: bool) -> dict[str, NDArray[Any]]:
        pieces = list(self._read(names, with_source))
        return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}

    def _read(self, names: Sequence[str], with_source: bool) -> Iterator[dict[str, NDArray[Any]]]:
        for batch in self._batches([*names, *([SOURCE] if with_source else [])]):
            piece: dict[str, NDArray[Any]] = {
                name: np.asarray(batch.column(name).to_numpy(zero_copy_only=False)).astype(np.float32, copy=False)
                for name in names
            }
            if with_source:
                codes = pc.index_in(batch.column(SOURCE).cast(pa.string()), pa.array(self.sources))
                piece[SOURCE] = codes.to_numpy(zero_copy_only=False).astype(np.uint16)
            yield piece

    def _batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        for path in self._paths:
            with open_parquet(path) as file:
                rows = rows_at_once(path, file, [SOURCE], BATCH_ROWS, LARGEST_TEXT, "write the file with short sources")
                batches = file.iter_batches(batch_size=rows if SOURCE in names else BATCH_ROWS, columns=list(names))
                while True:
                    with reading(path, "write the scores again"):
                        batch = next(batches, None)
                    if batch is None:
                        break
                    yield batch


def _described(path: Path) -> tuple[pa.Schema, int]:
    """Return the schema and the number of rows of a file, and close it: there may be thousands."""
    with reading(path, "own_scores takes Parquet; write it again"), open_parquet(path) as file:
        return file.schema_arrow, file.metadata.num_rows


def _is_score(field: pa.Field) -> bool:
    number = pa.types.is_floating(field.type) or pa.types.is_integer(field.type)
    return bool(number and field.name not in (SAMPLE, DOCUMENT, SOURCE))


def _whole_numbers(path: Path, name: str, column: pa.Array) -> NDArray[np.int64]:
    if not pa.types.is_integer(column.type) or column.null_count:
        raise ValueError(
            f"own_scores={path}: column {name!r} is {column.type} with {column.null_count} nulls: give integer ids"
        )
    try:
        return np.asarray(column.cast(pa.int64()).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid as error:
        raise ValueError(f"own_scores={path}: column {name!r} contains an invalid id: {error}") from error
