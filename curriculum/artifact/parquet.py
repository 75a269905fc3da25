"""Parquet files as streams: memory use does not grow with the file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow.parquet as pq

BUFFER_BYTES = 1 << 20


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file for reading it once, front to back.

    By default pyarrow keeps what it has read ahead until the file is closed: eventually the whole file.
    """
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES)
