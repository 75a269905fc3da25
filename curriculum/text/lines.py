"""JSON Lines, one document per line: plain (.jsonl) or compressed (.jsonl.gz, .jsonl.zst) files."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from curriculum.text.document import Columns, Document, parse_line

BLOCK_BYTES = 1 << 20
PACKED_BYTES = 1 << 15  # small, since a block can unpack to a thousand times its size


class PlainLines:
    """Lines of a plain file; a line's place is the offset of its first byte."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self._path, self._columns = path, columns
        self.span: tuple[int, int] | None = None

    def documents(self, start: int, stop: int) -> Iterator[tuple[int, Document]]:
        """Yield the documents whose lines start in a range of bytes."""
        with open(self._path, "rb", buffering=BLOCK_BYTES) as file:
            at = start
            if start:  # the line that contains the previous byte belongs to another range
                file.seek(start - 1)
                at += len(file.readline()) - 1
            first = at
            while at < stop and (line := file.readline()):
                place, at = at, at + len(line)
                document = parse_line(line.removesuffix(b"\n"), place == 0, self._columns, _LineAt(self._path, place))
                if document is not None:
                    yield place, document
        self.span = first, at


@dataclass(frozen=True)
class _LineAt:
    """Describes the line that starts at a byte offset; its number is counted only when printed."""

    path: Path
    offset: int

    def __str__(self) -> str:
        number, left = 1, self.offset
        with open(self.path, "rb") as file:
            while left and (block := file.read(min(left, BLOCK_BYTES))):
                number += block.count(b"\n")
                left -= len(block)
        return f"{self.path}, line {number}"


@dataclass(frozen=True)
class Packing:
    """How to decompress a file of any number of consecutive frames."""

    name: str
    frame: Callable[[], Any]
    """Returns a decompressor for one frame, with `decompress`, `eof` and `unused_data`."""
    error: type[Exception]
    padded: bool
    """Whether zero bytes may separate frames."""

    def blocks(self, path: Path) -> Iterator[tuple[int, bytes]]:
        """Yield (offset of a compressed block, its data); raises ValueError for a truncated or foreign file."""
        frame = None
        try:
            for place, block in _read_blocks(path):
                while block := block if frame or not self.padded else block.lstrip(b"\0"):
                    frame = frame or self.frame()
                    data = frame.decompress(block)
                    block = frame.unused_data if frame.eof else b""
                    frame = None if frame.eof else frame
                    if data:
                        yield place, data
        except self.error as error:
            raise ValueError(_damaged(path, self.name, error)) from error
        if frame is not None:
            raise ValueError(_damaged(path, self.name, "the last frame ends early"))


class PackedLines:
    """Lines of a compressed file; a line's place is the offset of the compressed block that completes it.

    Such a file can only be read from its start, so the reader keeps its position for a later range.
    """

    def __init__(self, path: Path, columns: Columns, packing: Packing) -> None:
        self._path, self._columns, self._packing = path, columns, packing
        self._left: Iterator[tuple[int, bytes]] = iter(())
        self._held: list[tuple[int, bytes]] = []
        """The line that ended the last range, the first unread one."""
        self._number = 0
        """Lines already read."""
        self._behind: int | None = None
        """Places below this one are already read; None: start over."""
        self.span: tuple[int, int] | None = None

    def documents(self, start: int, stop: int) -> Iterator[tuple[int, Document]]:
        """Yield the documents whose lines end in a range of compressed blocks."""
        if self._behind is None or start < self._behind:
            self._left, self._held, self._number = _lines(self._packing.blocks(self._path)), [], 0
        self._behind = None  # until this range has been read to its end
        lines = chain(self._held, self._left)
        self._held = []
        first = None
        for place, line in lines:
            if place >= start and first is None:
                first = self._number
            if place >= stop:
                self._held = [(place, line)]
                break
            self._number += 1
            if place >= start:
                where = f"{self._path}, line {self._number}"
                document = parse_line(line, self._number == 1, self._columns, where)
                if document is not None:
                    yield place, document
        self.span = self._number if first is None else first, self._number
        self._behind = stop


def gzip_lines(path: Path, columns: Columns) -> PackedLines:
    """Read a .jsonl.gz."""
    frame = lambda: zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)  # noqa: E731
    return PackedLines(path, columns, Packing("gzip", frame, zlib.error, padded=True))


def zstd_lines(path: Path, columns: Columns) -> PackedLines:
    """Read a .jsonl.zst frame by frame, which detects a truncated last frame; a stream reader does not."""
    import zstandard

    unpack = zstandard.ZstdDecompressor()
    return PackedLines(path, columns, Packing("zstd", unpack.decompressobj, zstandard.ZstdError, padded=False))


def _read_blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    place = 0
    with open(path, "rb") as file:
        while block := file.read(PACKED_BYTES):
            yield place, block
            place += len(block)


def _lines(blocks: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Split blocks into (place of the block that ends it, line); long lines are joined once, not once per block."""
    pieces: list[bytes] = []
    place = 0
    for place, block in blocks:
        first, *rest = block.split(b"\n")
        pieces.append(first)
        if rest:
            yield place, b"".join(pieces)
            for line in rest[:-1]:
                yield place, line
            pieces = [rest[-1]]
    yield place, b"".join(pieces)


def _damaged(path: Path, kind: str, error: object) -> str:
    return f"{path}: cannot be read as {kind} to its end ({error}): it is truncated or corrupt; download it again"
