"""Files of tokens that somebody else made: what every format must say, and the one pass that reads all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from curriculum.artifact.manifest import OutsideFile
from curriculum.tokens.ids import IntArray
from curriculum.tokens.tokenizer import TextTokenizer
from curriculum.tokens.tokens import FOREIGN_DTYPES

READ_BYTES = 8 << 20
INDEX_AT_ONCE = 1 << 20  # numbers of an index in memory at a time


@dataclass(frozen=True)
class ForeignFile:
    """A file with nothing but token ids, and what the index beside it says. Made by `open_megatron` and
    `open_datatrove`, which have checked that the two fit each other."""

    path: Path
    index: Path
    dtype: str
    """A key of FOREIGN_DTYPES."""
    tokens: int
    ends: Callable[[], Iterator[IntArray]]
    """Yields where each document ends, in tokens, block after block: never falling, the last is `tokens`."""

    def identity(self) -> str:
        """Cheap description that changes when the file or its index changes."""
        stats = [path.stat() for path in (self.path, self.index)]
        return ", ".join(f"bytes={stat.st_size} mtime_ns={stat.st_mtime_ns}" for stat in stats)


def require(path: Path, beside: Path) -> int:
    """Return the size of a file in bytes. Raises ValueError when it is not there, though `beside` needs it."""
    if not path.is_file():
        raise ValueError(
            f"{path} does not exist, and {beside} cannot be read without it: put it beside, or name another"
        )
    return path.stat().st_size


def blocks(numbers: npt.NDArray[Any]) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield (place of the first, numbers) of a mapped index, block after block."""
    for start in range(0, len(numbers), INDEX_AT_ONCE):
        yield start, np.asarray(numbers[start : start + INDEX_AT_ONCE])


def scan(
    file: ForeignFile,
    begins_D: npt.NDArray[np.int64],
    first_token: int,
    tokenizer: TextTokenizer,
    advance: Callable[[int], None],
) -> OutsideFile:
    """Read a file once, in bounded memory: check every id and every border between documents, and take the checksum.

    begins_D: int64 [documents], the first token of each document that has one, rising, counted so that the file's own
    first token is `first_token` (may be memory-mapped). `advance` is told the tokens of each block.
    Raises ValueError naming the file, the token and the mend.
    """
    dtype = np.dtype(FOREIGN_DTYPES[file.dtype])
    digest, place, before = xxhash.xxh3_128(), 0, tokenizer.end_of_text
    with open(file.path, "rb") as stream:
        while block := stream.read(READ_BYTES):
            digest.update(block)
            ids = np.frombuffer(block, dtype=dtype)
            _check_ids(file.path, ids, place, tokenizer)
            here = first_token + place
            first, stop = np.searchsorted(begins_D, [here, here + len(ids)])
            _check_borders(file.path, ids, np.asarray(begins_D[first:stop]) - here, place, before, tokenizer)
            before = int(ids[-1])
            place += len(ids)
            advance(len(ids))
    return OutsideFile(str(file.path), place * dtype.itemsize, digest.hexdigest())


def _check_ids(path: Path, ids: npt.NDArray[Any], place: int, tokenizer: TextTokenizer) -> None:
    if ids.min() >= 0 and ids.max() < tokenizer.vocab_size:
        return
    bad = int(np.flatnonzero((ids < 0) | (ids >= tokenizer.vocab_size))[0])
    mend = "make the file again" if ids[bad] < 0 else "name the tokenizer that made these tokens"
    raise ValueError(
        f"{path}: token {place + bad} is {ids[bad]}, not one of the tokenizer's ids 0 to {tokenizer.vocab_size - 1}: "
        f"{mend}"
    )


def _check_borders(
    path: Path, ids: npt.NDArray[Any], begins: IntArray, place: int, before: int, tokenizer: TextTokenizer
) -> None:
    """Raise ValueError unless the end-of-text is the last token before, or the first of, each document that begins
    inside these ids. `before` is the token that stands before them."""
    end = tokenizer.end_of_text
    previous = np.where(begins > 0, ids[begins - 1], before)
    open_ = np.flatnonzero((previous != end) & (ids[begins] != end))
    if len(open_):
        begin = int(begins[open_[0]])
        raise ValueError(
            f"{path}: a document begins at token {place + begin}, but neither that token ({ids[begin]}) nor the one "
            f"before it ({previous[open_[0]]}) is the end-of-text {tokenizer.end_of_text_token!r} ({end}), "
            "so documents would see each other: name the token between them with tokenizer.end_of_text=..., or make "
            "the file again with it (Megatron: --append-eod; datatrove: eos_token)"
        )
