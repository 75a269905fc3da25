"""SCORES written: row groups of losses, slice by slice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curriculum.scores.scores import BATCH_ROWS
from curriculum.tokens.tokens import Tokens


class SliceWriter:
    """Writes `<slice>.parquet`: one row per sample with its id, tokens and bytes, and one loss column per model.

    Row groups depend only on the number of rows, so that equal columns give equal bytes however they arrive.
    """

    def __init__(self, folder: Path, slice: str, models: Sequence[str]) -> None:
        self._slice, self._models = slice, list(models)
        counts = [("tokens", pa.int32()), ("bytes", pa.int32())]
        losses = [(f"loss_{name}", pa.float32()) for name in models]
        self._rows = RowGroups(folder / f"{slice}.parquet", pa.schema([("sample", pa.int64()), *counts, *losses]))
        self._samples = 0

    def __enter__(self) -> SliceWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._rows.close()

    def add(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Add the next samples. Raises ValueError, with model and sample, if a loss is not finite."""
        for name in self._models:
            loss_N = columns[f"loss_{name}"]
            bad = np.flatnonzero(~np.isfinite(loss_N))
            if len(bad):
                raise ValueError(
                    f"model {name!r} gives sample {self._samples + bad[0]} of slice {self._slice!r} a loss of "
                    f"{loss_N[bad[0]]} ({len(bad)} such samples): its weights are corrupt; train or choose another "
                    "reference model"
                )
        count = len(columns["tokens"])
        ids = np.arange(self._samples, self._samples + count, dtype=np.int64)
        self._rows.add({"sample": ids, **columns})
        self._samples += count


class DocumentsWriter:
    """Writes `<slice>.documents.parquet`, if requested: one row per document, with its mean loss by model.

    The column `document` is the document's ordinal in the text that `prepare` read, as in `own_scores`. A document
    that samples split has several parts, which arrive consecutively.
    """

    def __init__(self, folder: Path, slice: str, models: Sequence[str]) -> None:
        self._path, self._models = folder / f"{slice}.documents.parquet", list(models)
        self._rows: RowGroups | None = None
        self._open: dict[str, NDArray[Any]] = {}

    def __enter__(self) -> DocumentsWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._rows is not None:
            if kind is None:
                self._write(self._open)
            self._rows.close()

    def add(self, columns: Mapping[str, NDArray[Any]], tokens: Tokens) -> None:
        """Add the documents' parts of the next samples: `document`, `document_tokens`, `document_bytes`, `nats_*`."""
        if self._rows is None:
            counts = [("document", pa.int64()), ("tokens", pa.int64()), ("bytes", pa.int64())]
            self._rows = RowGroups(
                self._path, pa.schema([*counts, *((f"loss_{name}", pa.float32()) for name in self._models)])
            )
        index = np.asarray(columns["document"])
        if len(index) == 0:
            return
        starts = np.flatnonzero(np.diff(index, prepend=-1))
        values = {"tokens": columns["document_tokens"].astype(np.int64), "bytes": columns["document_bytes"]}
        values |= {f"nats_{name}": columns[f"nats_{name}"] for name in self._models}
        summed: dict[str, NDArray[Any]] = {"index": index[starts], "document": tokens.origins[index[starts]]}
        summed |= {name: np.add.reduceat(value, starts) for name, value in values.items()}
        if self._open and self._open["index"][-1] == summed["index"][0]:
            for name in values:
                summed[name][0] += self._open[name][-1]
            self._open = {name: value[:-1] for name, value in self._open.items()}
        if self._open:
            self._write(self._open)
        self._write({name: value[:-1] for name, value in summed.items()})
        self._open = {name: value[-1:] for name, value in summed.items()}

    def _write(self, summed: Mapping[str, NDArray[Any]]) -> None:
        if summed and len(summed["index"]) and self._rows is not None:
            kept = {name: summed[name] for name in ("document", "tokens", "bytes")}
            losses = {f"loss_{name}": summed[f"nats_{name}"] / summed["tokens"] for name in self._models}
            self._rows.add(kept | losses)


class RowGroups:
    """Writes a Parquet file in row groups of BATCH_ROWS, however its rows arrive."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._waiting: list[pa.Table] = []

    def add(self, columns: Mapping[str, NDArray[Any]]) -> None:
        """Add rows."""
        arrays = [pa.array(np.asarray(columns[field.name])).cast(field.type) for field in self._schema]
        self._waiting.append(pa.Table.from_arrays(arrays, schema=self._schema))
        while sum(len(table) for table in self._waiting) >= BATCH_ROWS:
            table = pa.concat_tables(self._waiting)
            self._write(table[:BATCH_ROWS])
            self._waiting = [table[BATCH_ROWS:]]

    def close(self) -> None:
        """Write the remaining rows, and close the file."""
        if self._waiting:
            self._write(pa.concat_tables(self._waiting))
        self._writer.close()

    def _write(self, table: pa.Table) -> None:
        self._writer.write_table(table.combine_chunks(), row_group_size=BATCH_ROWS)
