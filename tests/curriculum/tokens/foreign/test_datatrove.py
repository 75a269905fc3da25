"""datatrove's .ds files: the index determines the width of a token, and mismatches are rejected."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from curriculum.tokens.foreign.datatrove import open_datatrove

Write = Callable[..., Path]
DOCUMENTS = [[1, 2, 0], [], [3, 0]]


@pytest.mark.parametrize(("letter", "dtype"), [("H", "uint16"), ("I", "uint32")])
def test_both_widths_are_read(letter: str, dtype: str, tmp_path: Path, write_datatrove: Write) -> None:
    file = open_datatrove(write_datatrove(tmp_path / "a.ds", DOCUMENTS, letter))
    assert (file.dtype, file.tokens) == (dtype, 5)
    assert np.concatenate(list(file.ends())).tolist() == [3, 3, 5]


@pytest.mark.parametrize("documents", [[], [[], []]])
def test_files_without_a_token_open(documents: list[list[int]], tmp_path: Path, write_datatrove: Write) -> None:
    file = open_datatrove(write_datatrove(tmp_path / "a.ds", documents))
    assert (file.tokens, [end for ends in file.ends() for end in ends]) == (0, [0] * len(documents))


@pytest.mark.parametrize(
    ("name", "raw", "message"),
    [
        ("a.ds.index", bytes(23), r"a\.ds\.index has 23 bytes, not 8 per document: it is truncated"),
        (
            "a.ds.index",
            struct.pack("<3Q", 3, 2, 5),
            r"a\.ds\.index: document 1 ends at token 2, before its predecessor",
        ),
        ("a.ds.index", struct.pack("<3Q", 3, 2**64 - 1, 5), r"document 2 ends at token 5, before its predecessor"),
        ("a.ds.index", struct.pack("<2Q", 3, 4), r"a\.ds has 10 bytes, but its index counts 4 tokens of 2 or 4 bytes"),
        ("a.ds.index", b"", r"a\.ds has 10 bytes, but its index counts 0 tokens"),
        ("a.ds", bytes(9), r"a\.ds has 9 bytes, but its index counts 5 tokens"),
        ("a.ds", b"", r"a\.ds has 0 bytes, but its index counts 5 tokens"),
        ("a.ds.loss", bytes(5), r"a\.ds\.loss masks labels, which TOKENS do not support: .*link it and its index"),
    ],
)
def test_what_does_not_fit_is_refused(
    name: str, raw: bytes, message: str, tmp_path: Path, write_datatrove: Write
) -> None:
    path = write_datatrove(tmp_path / "a.ds", DOCUMENTS)
    (tmp_path / name).write_bytes(raw)
    with pytest.raises(ValueError, match=message):
        open_datatrove(path)


def test_missing_files_are_refused(tmp_path: Path, write_datatrove: Write) -> None:
    path = write_datatrove(tmp_path / "a.ds", DOCUMENTS)
    (tmp_path / "a.ds.index").unlink()
    with pytest.raises(ValueError, match=r"a\.ds\.index does not exist, but .*a\.ds cannot be read without it"):
        open_datatrove(path)
