"""Token files of other programs: the interface of every format, and the single pass that checks a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from curriculum.artifact.blocks import BlockHasher
from curriculum.artifact.mapped import Stamp
from curriculum.tokens.ids import IntArray
from curriculum.tokens.tokenizer import TextTokenizer
from curriculum.tokens.tokens import FOREIGN_DTYPES

READ_BYTES = 8 << 20
CHUNKED_SUFFIX = ".ds"
"""Suffix of datatrove's files, whose index also lists the ends of chunks if they were shuffled by chunk."""
INDEX_AT_ONCE = 1 << 20  # index entries in memory at a time


@dataclass(frozen=True)
class ForeignFile:
    """A file of plain token ids, and the contents of its index. Opened by `open_megatron` and `open_datatrove`, which
    check that the two match."""

    path: Path
    index: Path
    dtype: str
    """A key of FOREIGN_DTYPES."""
    tokens: int
    ends: Callable[[], Iterator[IntArray]]
    """Yields the end of each document in tokens, block by block: never decreasing, the last one is `tokens`."""

    def identity(self) -> str:
        """Cheap description that changes with the file or its index."""
        stats = [path.stat() for path in (self.path, self.index)]
        return ", ".join(f"bytes={stat.st_size} mtime_ns={stat.st_mtime_ns}" for stat in stats)


def require(path: Path, partner: Path) -> int:
    """Return the size of a file in bytes. Raises ValueError if it does not exist; `partner` needs it."""
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist, but {partner} cannot be read without it: restore it, or name another file"
        )
    return path.stat().st_size


def blocks(numbers: npt.NDArray[Any]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield (position of the first, numbers) of a mapped index, block by block."""
    for start in range(0, len(numbers), INDEX_AT_ONCE):
        yield start, np.asarray(numbers[start : start + INDEX_AT_ONCE])


def scan(
    file: ForeignFile,
    begins_D: npt.NDArray[np.int64],
    first_token: int,
    tokenizer: TextTokenizer,
    advance: Callable[[int], None],
) -> tuple[BlockHasher, int]:
    """Read a file once, in bounded memory: check every id and every document boundary, and compute the checksum.

    begins_D: int64 [documents], the first token of each non-empty document, increasing; the file's own first token
    counts as `first_token` (may be memory-mapped). `advance` is called with the number of tokens of each block.
    Returns the file's checksums and how many documents start with the tokenizer's BOS token, after end-of-text or not.
    Raises ValueError with the file, the token and a fix.
    """
    dtype = np.dtype(FOREIGN_DTYPES[file.dtype])
    hashes, place, before = BlockHasher(), 0, tokenizer.end_of_text
    bos = tokenizer.vocabulary.get(tokenizer.bos_token)
    with_bos, expected = 0, np.zeros(0, dtype=np.int64)  # positions in the block that BOS may start a document at
    with open(file.path, "rb") as stream:
        stamp = Stamp.of(stream.fileno())
        while block := stream.read(READ_BYTES):
            hashes.update(block)
            ids = np.frombuffer(block, dtype=dtype)
            _check_ids(file.path, ids, place, tokenizer)
            here = first_token + place
            first, stop = np.searchsorted(begins_D, [here, here + len(ids)])
            _check_boundaries(file.path, ids, np.asarray(begins_D[first:stop]) - here, place, before, tokenizer)
            begins = np.asarray(begins_D[first:stop]) - here
            expected = np.concatenate((expected, np.where(ids[begins] == tokenizer.end_of_text, begins + 1, begins)))
            expected = np.unique(expected)  # a document of end-of-text only has none
            with_bos += int(np.count_nonzero(ids[expected[expected < len(ids)]] == bos))
            expected = expected[expected >= len(ids)] - len(ids)
            before = int(ids[-1])
            place += len(ids)
            advance(len(ids))
        if (now := Stamp.of(stream.fileno())) != stamp:
            raise ValueError(f"{file.path} changed while it was being read: {stamp.difference(now)}; run again")
    hashes.finish()
    return hashes, with_bos


def _check_ids(path: Path, ids: npt.NDArray[Any], place: int, tokenizer: TextTokenizer) -> None:
    if ids.min() >= 0 and ids.max() < tokenizer.vocab_size:
        return
    bad = int(np.flatnonzero((ids < 0) | (ids >= tokenizer.vocab_size))[0])
    fix = "build the file again" if ids[bad] < 0 else "name the tokenizer that encoded these tokens"
    raise ValueError(
        f"{path}: token {place + bad} is {ids[bad]}, not one of the tokenizer's ids 0 to {tokenizer.vocab_size - 1}: "
        f"{fix}"
    )


def _check_boundaries(
    path: Path, ids: npt.NDArray[Any], begins: IntArray, place: int, before: int, tokenizer: TextTokenizer
) -> None:
    """Raise ValueError unless each document that starts in these ids starts with, or right after, end-of-text.
    `before` is the token that precedes them."""
    end = tokenizer.end_of_text
    previous = np.where(begins > 0, ids[begins - 1], before)
    open_ = np.flatnonzero((previous != end) & (ids[begins] != end))
    if len(open_):
        begin = int(begins[open_[0]])
        remedy = (
            "name the token between them with tokenizer.end_of_text=..., or build the file again with it (Megatron: "
            "--append-eod; datatrove: eos_token)"
        )
        if path.suffix == CHUNKED_SUFFIX and (ids == end).any():
            remedy = (
                "the token does occur elsewhere, so this looks like the end of a chunk that cut a document: build the "
                f"file again without datatrove's shuffle_chunk_size; if not, {remedy}"
            )
        raise ValueError(
            f"{path}: a document starts at token {place + begin}, but neither that token ({ids[begin]}) nor the one "
            f"before it ({previous[open_[0]]}) is the end-of-text {tokenizer.end_of_text_token!r} ({end}), "
            f"so documents would see each other: {remedy}"
        )
