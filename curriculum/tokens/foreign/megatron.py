"""Megatron's indexed dataset: token ids in <prefix>.bin, sequences and documents in <prefix>.idx.

The index, little-endian (megatron/core/datasets/indexed_dataset.py):

    9 bytes "MMIDIDX" and two zeros, uint64 version 1, uint8 code of the ids' dtype,
    uint64 sequences S, uint64 document bounds D,
    int32 [S] lengths in tokens, int64 [S] offsets in bytes, int64 [D] bounds: 0, then the sequence after each document

A document is one or more sequences (sentences). Multimodal datasets append int8 [S] modes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from curriculum.tokens.foreign.files import ForeignFile, blocks, require
from curriculum.tokens.ids import IntArray, NumberFile
from curriculum.tokens.tokens import FOREIGN_DTYPES

MAGIC = b"MMIDIDX\x00\x00"
VERSION = 1
HEADER = struct.Struct("<9sQBQQ")
TYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 6: "float64", 7: "float32", 8: "uint16"}
AGAIN = "build the dataset again"


def open_megatron(prefix: Path) -> ForeignFile:
    """Open <prefix>.bin by its <prefix>.idx; reads the whole index and no tokens. O(sequences).

    Raises ValueError with the file, the wrong value and a fix.
    """
    data, index = prefix.with_name(f"{prefix.name}.bin"), prefix.with_name(f"{prefix.name}.idx")
    data_bytes, index_bytes = require(data, index), require(index, data)
    dtype, sequences, bounds = _header(index, index_bytes)
    lengths_S = NumberFile(index, "<i4", sequences, HEADER.size).map()
    places_S = NumberFile(index, "<i8", sequences, HEADER.size + 4 * sequences).map()
    bounds_D = NumberFile(index, "<i8", bounds, HEADER.size + 12 * sequences).map()
    size = np.dtype(FOREIGN_DTYPES[dtype]).itemsize
    _check_sequences(index, lengths_S, places_S, size, data, data_bytes)
    _check_documents(index, bounds_D, sequences)
    tokens = data_bytes // size

    def ends() -> Iterator[IntArray]:
        for _, block in blocks(bounds_D[1:]):
            places = np.full(len(block), data_bytes, dtype=np.int64)
            inside = block < sequences
            places[inside] = places_S[block[inside]]
            yield places // size

    return ForeignFile(data, index, dtype, tokens, ends)


def _header(index: Path, index_bytes: int) -> tuple[str, int, int]:
    """Return the dtype of the ids, the number of sequences and the number of document bounds."""
    with open(index, "rb") as file:
        raw = file.read(HEADER.size)
    if raw[: len(MAGIC)] != MAGIC:
        raise ValueError(
            f"{index} starts with {raw[: len(MAGIC)]!r}, not {MAGIC!r}: not a Megatron index, name another file"
        )
    if len(raw) < HEADER.size:
        raise ValueError(f"{index} is truncated to {len(raw)} bytes, its header has {HEADER.size}: copy it again")
    _, version, code, sequences, bounds = HEADER.unpack(raw)
    if version != VERSION:
        raise ValueError(f"{index} has version {version}, only {VERSION} is supported: {AGAIN} with a recent Megatron")
    name = TYPES.get(code)
    if name not in FOREIGN_DTYPES:
        what = f"contains {name}, not token ids" if name else f"has dtype code {code}, which Megatron does not define"
        raise ValueError(f"{index} {what}: {AGAIN} with an integer dtype")
    expected = HEADER.size + 12 * sequences + 8 * bounds
    if index_bytes == expected + sequences and sequences:
        raise ValueError(f"{index} is multimodal (modes of {sequences} sequences): build a text-only dataset")
    if index_bytes != expected:
        raise ValueError(
            f"{index} has {index_bytes} bytes, but {sequences} sequences and {bounds} document bounds take {expected}: "
            "it is truncated, copy it again"
        )
    return name, sequences, bounds


def _check_sequences(
    index: Path,
    lengths_S: npt.NDArray[np.int32],
    places_S: npt.NDArray[np.int64],
    size: int,
    data: Path,
    data_bytes: int,
) -> None:
    """Raise ValueError unless the sequences are contiguous and fill the .bin."""
    expected = 0
    for start, lengths in blocks(lengths_S):
        places = np.asarray(places_S[start : start + len(lengths)])
        if lengths.min() < 0:
            bad = int(np.flatnonzero(lengths < 0)[0])
            raise ValueError(f"{index}: sequence {start + bad} has a length of {lengths[bad]} tokens: {AGAIN}")
        ends = expected + np.cumsum(lengths, dtype=np.int64) * size
        wrong = np.flatnonzero(places != np.concatenate(([expected], ends[:-1])))
        outside = np.flatnonzero((places < 0) | (places > data_bytes) | (ends > data_bytes))
        if len(outside) and (not len(wrong) or outside[0] <= wrong[0]):
            bad = int(outside[0])
            raise ValueError(
                f"{index}: sequence {start + bad} ({lengths[bad]} tokens at byte {places[bad]}) is outside {data} "
                f"({data_bytes} bytes): the .bin is truncated or from another dataset; copy the pair again"
            )
        if len(wrong):
            bad = int(wrong[0])
            raise ValueError(
                f"{index}: sequence {start + bad} starts at byte {places[bad]}, but the one before it ends at "
                f"{expected if bad == 0 else ends[bad - 1]}: only contiguous sequences can be read; {AGAIN}"
            )
        expected = int(ends[-1])
    if expected != data_bytes:
        raise ValueError(
            f"{data} has {data_bytes} bytes, but its index accounts for {expected}: they belong to different datasets; "
            "copy the pair again"
        )


def _check_documents(index: Path, bounds_D: npt.NDArray[np.int64], sequences: int) -> None:
    """Raise ValueError unless the document bounds increase from 0 to the number of sequences."""
    ends = f"{bounds_D[0]} and {bounds_D[-1]}" if len(bounds_D) else "nothing"
    if not len(bounds_D) or bounds_D[0] != 0 or bounds_D[-1] != sequences:
        raise ValueError(f"{index}: document bounds start and end with {ends}, not with 0 and {sequences}: {AGAIN}")
    before = 0
    for start, block in blocks(bounds_D):
        decreasing = np.flatnonzero(block < np.concatenate(([before], block[:-1])))
        if len(decreasing):
            bad = int(decreasing[0])
            raise ValueError(f"{index}: document bound {start + bad} is {block[bad]}, below its predecessor: {AGAIN}")
        before = int(block[-1])
