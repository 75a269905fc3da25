"""datatrove's token files: token ids in <name>.ds, document ends in <name>.ds.index.

The index is uint64 [documents]: the end of each document in tokens (datatrove/pipeline/tokens/tokenizer.py). The ids
are uint16 or uint32, depending on the file's size and the last document's end.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from curriculum.tokens.foreign.files import ForeignFile, blocks, require
from curriculum.tokens.ids import IntArray, NumberFile

SUFFIX = ".ds"
TYPES = {2: "uint16", 4: "uint32"}
END_BYTES = 8


def open_datatrove(path: Path) -> ForeignFile:
    """Open a .ds file by its index; reads the whole index and no tokens. O(documents).

    Raises ValueError with the file, the wrong value and a fix.
    """
    index, losses = (path.with_name(f"{path.name}.{part}") for part in ("index", "loss"))
    data_bytes, index_bytes = require(path, index), require(index, path)
    if losses.exists():
        raise ValueError(
            f"{losses} masks labels, which TOKENS do not support: to train on every token of {path}, link it and its "
            "index into another folder"
        )
    if index_bytes % END_BYTES:
        raise ValueError(
            f"{index} has {index_bytes} bytes, not {END_BYTES} per document: it is truncated, copy it again"
        )
    ends_D = NumberFile(index, "<u8", index_bytes // END_BYTES).map()
    tokens = int(ends_D[-1]) if len(ends_D) else 0
    dtype = next((name for size, name in TYPES.items() if tokens * size == data_bytes), None)
    if dtype is None:
        raise ValueError(
            f"{path} has {data_bytes} bytes, but its index counts {tokens} tokens of 2 or 4 bytes: they belong to "
            "different datasets, or one is truncated; copy the pair again"
        )
    _check_increasing(index, ends_D)

    def ends() -> Iterator[IntArray]:
        for _, block in blocks(ends_D):
            yield block.astype(np.int64)

    return ForeignFile(path, index, dtype, tokens, ends)


def _check_increasing(index: Path, ends_D: npt.NDArray[np.uint64]) -> None:
    before = np.uint64(0)
    for start, block in blocks(ends_D):
        decreasing = np.flatnonzero(block < np.concatenate((np.array([before]), block[:-1])))
        if len(decreasing):
            bad = int(decreasing[0])
            raise ValueError(
                f"{index}: document {start + bad} ends at token {block[bad]}, before its predecessor: build it again"
            )
        before = block[-1]
