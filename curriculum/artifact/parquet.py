"""Parquet files as streams: memory use does not grow with the file, nor with what it unpacks to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow.parquet as pq

BUFFER_BYTES = 1 << 20
MOST_PACKED = 100
"""Times that the text of a row group may exceed its size in the file; text that is not made up stays far below."""


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file for reading it once, front to back.

    By default pyarrow keeps what it has read ahead until the file is closed: eventually the whole file.
    """
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES)


def rows_at_once(path: Path, file: pq.ParquetFile, names: Sequence[str], most: int, largest: int, remedy: str) -> int:
    """Return how many rows of the columns `names` to read at once, up to `most`: about `largest` bytes.

    A value in a dictionary is stored once, however many rows have it. Raises ValueError for a dictionary of more than
    `largest` bytes, and for a row group of more that unpacks to over MOST_PACKED times its size in the file: pages are
    unpacked as a whole. `remedy` ends the message.
    """
    rows = most
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        for column in map(group.column, range(group.num_columns)):
            if column.path_in_schema.partition(".")[0] not in {name.partition(".")[0] for name in names}:
                continue
            unpacked, packed = column.total_uncompressed_size, column.total_compressed_size
            what = f"{path}, row group {number + 1}: column {column.path_in_schema!r} has"
            if unpacked > largest and unpacked > MOST_PACKED * packed:
                raise ValueError(f"{what} {unpacked:,} bytes, packed into {packed:,}, more than {largest:,}: {remedy}")
            values = _dictionary_bytes(path, column.dictionary_page_offset) if column.has_dictionary_page else 0
            if values > largest:
                raise ValueError(f"{what} a dictionary of {values:,} bytes, more than {largest:,}: {remedy}")
            rows = min(rows, largest // max(1, values, unpacked // max(1, group.num_rows)))
    return max(1, rows)


def _dictionary_bytes(path: Path, offset: int | None) -> int:
    """Return the unpacked size of the dictionary page at an offset, from the page's header (Thrift, compact).

    The header begins with two fields of type i32: the page's type, which is 2, and its unpacked size.
    """
    with open(path, "rb") as file:
        file.seek(offset or 0)
        header = file.read(8)
    if header[:3] != b"\x15\x04\x15":
        return 0  # not a dictionary page: pyarrow names what is wrong with the file
    size = 0
    for place, byte in enumerate(header[3:]):
        size |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            break
    return size >> 1 ^ -(size & 1)
