"""Scores to arrange: a Parquet file with one float32 column from a normal distribution, written as a stream."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from curriculum.artifact.parquet import open_parquet

ROWS = 1 << 20
MEAN, DEVIATION = 0.35, 0.1
COMPRESSIONS = ("none", "zstd")


def draw(samples: int, seed: int) -> Iterator[NDArray[np.float32]]:
    """Yield `samples` normal scores with MEAN and DEVIATION, in pieces of ROWS; deterministic given the seed."""
    generator = np.random.default_rng(seed)
    for first in range(0, samples, ROWS):
        yield generator.standard_normal(min(ROWS, samples - first), np.float32) * np.float32(DEVIATION) + np.float32(
            MEAN
        )


def write_scores(
    folder: Path, samples: int, seed: int, *, compression: str = "none", sample_column: bool = False
) -> Path:
    """Write the scores into `folder`, or reuse them; return the file. Memory does not grow with `samples`.

    Columns: `score` float32, preceded by `sample` int64 if `sample_column`.
    """
    path = folder / f"scores-{samples}-{seed}-{compression}{'-sample' * sample_column}.parquet"
    if path.exists():
        return path
    fields = [("sample", pa.int64())] * sample_column + [("score", pa.float32())]
    partial = path.with_suffix(".partial")
    with pq.ParquetWriter(partial, pa.schema(fields), compression=compression) as writer:
        first = 0
        for score_N in draw(samples, seed):
            arrays = [pa.array(np.arange(first, first + len(score_N)))] * sample_column + [pa.array(score_N)]
            writer.write_table(pa.table(arrays, schema=pa.schema(fields)), row_group_size=ROWS)
            first += len(score_N)
    os.replace(partial, path)
    return path


def read_scores(path: Path) -> Iterator[NDArray[np.float32]]:
    """Yield the score column in pieces: the minimum that any arrangement has to read."""
    with open_parquet(path) as file:
        for batch in file.iter_batches(batch_size=ROWS, columns=["score"]):
            yield batch.column(0).to_numpy()
