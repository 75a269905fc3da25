"""Megatron's index is read correctly, and mismatches with its .bin are rejected with their position."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from curriculum.tokens.foreign import files
from curriculum.tokens.foreign.megatron import open_megatron

Write = Callable[..., Path]
DOCUMENTS = [[[1, 2, 3], [4, 0]], [[5, 0]], [], [[6, 7, 8, 0]]]  # 4 sequences, 11 tokens, one empty document


@pytest.mark.parametrize(
    ("letter", "dtype"),
    [("B", "uint8"), ("b", "int8"), ("h", "int16"), ("i", "int32"), ("q", "int64"), ("H", "uint16")],
)
def test_every_integer_type_is_read(letter: str, dtype: str, tmp_path: Path, write_megatron: Write) -> None:
    file = open_megatron(write_megatron(tmp_path / "a", DOCUMENTS, letter))
    assert (file.dtype, file.tokens, file.path) == (dtype, 11, tmp_path / "a.bin")
    assert np.concatenate(list(file.ends())).tolist() == [5, 7, 7, 11]


def test_nothing_is_a_dataset_too(tmp_path: Path, write_megatron: Write) -> None:
    file = open_megatron(write_megatron(tmp_path / "a", []))
    assert (file.tokens, list(file.ends())) == (0, [])


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
def test_indexes_longer_than_memory(
    at_once: int, tmp_path: Path, write_megatron: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "INDEX_AT_ONCE", at_once)
    file = open_megatron(write_megatron(tmp_path / "a", DOCUMENTS))
    assert np.concatenate(list(file.ends())).tolist() == [5, 7, 7, 11]


# Byte offsets in the index of DOCUMENTS: header to 34, lengths to 50, places to 82, bounds to 122.


@pytest.mark.parametrize(
    ("place", "raw", "message"),
    [
        (0, b"TNTIDX\0\0\0", r"a\.idx starts with b'TNTIDX.*, not b'MMIDIDX.*: not a Megatron index"),
        (9, struct.pack("<Q", 2), r"a\.idx has version 2, only 1 is supported: build the dataset again"),
        (17, b"\x09", r"a\.idx has dtype code 9, which Megatron does not define"),
        (17, b"\x07", r"a\.idx contains float32, not token ids: build the dataset again with an integer dtype"),
        (17, b"\x06", r"a\.idx contains float64, not token ids"),
        (17, b"\x08", r"sequence 1 starts at byte 12, but the one before it ends at 6: only contiguous sequences"),
        (
            18,
            struct.pack("<Q", 5),
            r"a\.idx has 122 bytes, but 5 sequences and 5 document bounds take 134: it is truncated",
        ),
        (
            26,
            struct.pack("<Q", 2**60),
            r"a\.idx has 122 bytes, but 4 sequences and 1152921504606846976 document bounds take",
        ),
        (34, struct.pack("<i", -3), r"a\.idx: sequence 0 has a length of -3 tokens: build the dataset again"),
        (46, struct.pack("<i", 9), r"sequence 3 \(9 tokens at byte 28\) is outside .*a\.bin \(44 bytes\)"),
        (
            46,
            struct.pack("<i", 3),
            r"a\.bin has 44 bytes, but its index accounts for 40: they belong to different datasets",
        ),
        (
            58,
            struct.pack("<q", 10**9),
            r"sequence 1 \(2 tokens at byte 1000000000\) is outside .*a\.bin \(44 bytes\)",
        ),
        (58, struct.pack("<q", -4), r"sequence 1 \(2 tokens at byte -4\) is outside"),
        (58, struct.pack("<q", 8), r"sequence 1 starts at byte 8, but the one before it ends at 12"),
        (50, struct.pack("<q", 4), r"sequence 0 starts at byte 4, but the one before it ends at 0"),
        (82, struct.pack("<q", 1), r"document bounds start and end with 1 and 4, not with 0 and 4"),
        (114, struct.pack("<q", 3), r"document bounds start and end with 0 and 3, not with 0 and 4"),
        (98, struct.pack("<q", 1), r"document bound 2 is 1, below its predecessor"),
        (98, struct.pack("<q", 99), r"document bound 3 is 3, below its predecessor"),
    ],
)
@pytest.mark.parametrize("at_once", [2, 100])
def test_a_wrong_index_is_refused(
    place: int,
    raw: bytes,
    message: str,
    at_once: int,
    tmp_path: Path,
    write_megatron: Write,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files, "INDEX_AT_ONCE", at_once)
    prefix = write_megatron(tmp_path / "a", DOCUMENTS)
    data = bytearray((tmp_path / "a.idx").read_bytes())
    assert len(data) == 122
    data[place : place + len(raw)] = raw
    (tmp_path / "a.idx").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        open_megatron(prefix)


def test_torn_and_missing_files_are_refused(tmp_path: Path, write_megatron: Write) -> None:
    prefix = write_megatron(tmp_path / "a", DOCUMENTS)
    index, data = (tmp_path / "a.idx"), (tmp_path / "a.bin")
    whole, ids = index.read_bytes(), data.read_bytes()
    for size, message in ((0, "starts with b''"), (20, "truncated to 20 bytes, its header has 34"), (100, "take 122")):
        index.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=rf"a\.idx .*{message}"):
            open_megatron(prefix)
    index.write_bytes(whole)
    data.write_bytes(ids[:-2])
    with pytest.raises(ValueError, match=r"sequence 3 \(4 tokens at byte 28\) is outside .*a\.bin \(42 bytes\)"):
        open_megatron(prefix)
    data.unlink()
    with pytest.raises(ValueError, match=r"a\.bin does not exist, but .*a\.idx cannot be read without it"):
        open_megatron(prefix)
    data.write_bytes(ids)
    index.unlink()
    with pytest.raises(ValueError, match=r"a\.idx does not exist, but .*a\.bin cannot be read without it"):
        open_megatron(prefix)


def test_multimodal_datasets_are_refused(tmp_path: Path, write_megatron: Write) -> None:
    prefix = write_megatron(tmp_path / "a", DOCUMENTS, tail=bytes(4))
    with pytest.raises(ValueError, match=r"a\.idx is multimodal \(modes of 4 sequences\)"):
        open_megatron(prefix)
