"""JSON files, plain or compressed (.gz, .zst): one document per line (.jsonl), or that or one array (.json)."""

from __future__ import annotations

import codecs
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

from curriculum.text.arrays import ArrayElements, parse_element
from curriculum.text.document import BadRecordError, BadRecords, Columns, Document, parse_line

Record = TypeVar("Record")

BLOCK_BYTES = 1 << 20
PACKED_BYTES = 1 << 15
GZIP_AT_ONCE, ZSTD_AT_ONCE = 1 << 15, 1 << 11
"""Compressed bytes that are unpacked at once: to at most 1032 and 32768 times as many."""
ZSTD_WINDOW = 1 << 31
"""Largest window of a zstd frame (`zstd --ultra --long=31`). As much memory as the frame's own window is allocated."""


class PlainLines:
    """Lines of a plain file; a line's place is the offset of its first byte."""

    def __init__(self, path: Path, columns: Columns, bad: BadRecords) -> None:
        self._path, self._columns, self._bad = path, columns, bad
        self._counted = (0, 1)
        """An offset, and the number of the line that starts there."""
        self.span: tuple[int, int] | None = None

    def documents(self, start: int, stop: int) -> Iterator[tuple[int, Document]]:
        """Yield the documents whose lines start in a range of bytes."""
        with open(self._path, "rb", buffering=BLOCK_BYTES) as file:
            at = start
            if start:  # the line that contains the previous byte belongs to another range
                file.seek(start - 1)
                at += _rest_of_line(file) - 1
            first = at
            while at < stop and (line := file.readline(self._columns.largest + 1)):
                place, at = at, at + len(line)
                try:
                    if not line.endswith(b"\n"):
                        self._columns.check_size(len(line), _LineAt(self, place))
                    document = parse_line(line.removesuffix(b"\n"), place == 0, self._columns, _LineAt(self, place))
                except BadRecordError as error:
                    self._bad.add(error)
                    at += 0 if line.endswith(b"\n") else _rest_of_line(file)
                    continue
                if document is not None:
                    yield place, document
        self.span = first, at

    def line_at(self, offset: int) -> str:
        """Describe the line that starts at an offset; lines are counted from the one described last, if it precedes."""
        at, number = self._counted if self._counted[0] <= offset else (0, 1)
        with open(self._path, "rb") as file:
            file.seek(at)
            while at < offset and (block := file.read(min(offset - at, BLOCK_BYTES))):
                number += block.count(b"\n")
                at += len(block)
        self._counted = at, number
        return f"{self._path}, line {number}"


@dataclass(frozen=True)
class _LineAt:
    """Describes the line that starts at a byte offset; its number is counted only when printed."""

    reader: PlainLines
    offset: int

    def __str__(self) -> str:
        return self.reader.line_at(self.offset)


class Blocks(Protocol):
    """A way to read a file front to back."""

    def blocks(self, path: Path) -> Iterator[tuple[int, bytes]]:
        """Yield (offset of a block in the file, its data)."""


class Plain:
    """An uncompressed file."""

    def blocks(self, path: Path) -> Iterator[tuple[int, bytes]]:
        """Yield (offset of a block, its data)."""
        return _read_blocks(path)


@dataclass(frozen=True)
class Packing:
    """How to decompress a file of any number of consecutive frames."""

    name: str
    frame: Callable[[], Any]
    """Returns a decompressor for one frame, with `decompress`, `eof` and `unused_data`."""
    error: type[Exception]
    padded: bool
    """Whether zero bytes may separate frames."""
    at_once: int
    """Compressed bytes to unpack at once."""

    def blocks(self, path: Path) -> Iterator[tuple[int, bytes]]:
        """Yield (offset of a compressed block, its data); raises ValueError for a truncated or foreign file."""
        frame = None
        try:
            for place, block in _read_blocks(path):
                for start in range(0, len(block), self.at_once):
                    piece = block[start : start + self.at_once]
                    while piece := piece if frame or not self.padded else piece.lstrip(b"\0"):
                        frame = frame or self.frame()
                        data = frame.decompress(piece)
                        piece = frame.unused_data if frame.eof else b""
                        frame = None if frame.eof else frame
                        if data:
                            yield place, data
        except self.error as error:
            raise ValueError(_damaged(path, self.name, error)) from error
        if frame is not None:
            raise ValueError(_damaged(path, self.name, "the last frame ends early"))


class FrontToBack(Generic[Record]):
    """Records of a file that can only be read from its start: lines of a compressed file, elements of an array.

    A record's place is the offset of the block that completes it. The reader keeps its position for a later range.
    `records` starts an iteration over (place, record), `unit` is what a record is called.
    """

    def __init__(
        self,
        path: Path,
        columns: Columns,
        bad: BadRecords,
        records: Callable[[], Iterator[tuple[int, Record]]],
        parse: Callable[[Record, bool, Columns, object], Document | None],
        unit: str,
    ) -> None:
        self._path, self._columns, self._bad = path, columns, bad
        self._records, self._parse, self._unit = records, parse, unit
        self._left: Iterator[tuple[int, Record]] = iter(())
        self._held: list[tuple[int, Record]] = []
        """The record that ended the last range, the first unread one."""
        self._number = 0
        """Records already read."""
        self._behind: int | None = None
        """Places below this one are already read; None: start over."""
        self.span: tuple[int, int] | None = None

    def documents(self, start: int, stop: int) -> Iterator[tuple[int, Document]]:
        """Yield the documents of the records that end in a range of blocks."""
        if self._behind is None or start < self._behind:
            self._left, self._held, self._number = self._records(), [], 0
        self._behind = None  # until this range has been read to its end
        records = chain(self._held, self._left)
        self._held = []
        first = None
        for place, record in records:
            if place >= start and first is None:
                first = self._number
            if place >= stop:
                self._held = [(place, record)]
                break
            self._number += 1
            if place >= start:
                where = f"{self._path}, {self._unit} {self._number}"
                try:
                    document = self._parse(record, self._number == 1, self._columns, where)
                except BadRecordError as error:
                    self._bad.add(error)
                    continue
                if document is not None:
                    yield place, document
        self.span = self._number if first is None else first, self._number
        self._behind = stop


Reader = PlainLines | FrontToBack[Any]


def gzip_lines(path: Path, columns: Columns, bad: BadRecords) -> Reader:
    """Read a .jsonl.gz."""
    return _lines_of(path, columns, bad, _gzip())


def zstd_lines(path: Path, columns: Columns, bad: BadRecords) -> Reader:
    """Read a .jsonl.zst."""
    return _lines_of(path, columns, bad, _zstd())


def plain_json(path: Path, columns: Columns, bad: BadRecords) -> Reader:
    """Read a .json."""
    return _array_of(path, columns, bad, Plain()) or PlainLines(path, columns, bad)


def gzip_json(path: Path, columns: Columns, bad: BadRecords) -> Reader:
    """Read a .json.gz."""
    return _array_of(path, columns, bad, _gzip()) or gzip_lines(path, columns, bad)


def zstd_json(path: Path, columns: Columns, bad: BadRecords) -> Reader:
    """Read a .json.zst."""
    return _array_of(path, columns, bad, _zstd()) or zstd_lines(path, columns, bad)


def _gzip() -> Packing:
    frame = lambda: zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)  # noqa: E731
    return Packing("gzip", frame, zlib.error, padded=True, at_once=GZIP_AT_ONCE)


def _zstd() -> Packing:
    """Return how to read zstd frame by frame, which detects a truncated last frame; a stream reader does not."""
    import zstandard

    unpack = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
    return Packing("zstd", unpack.decompressobj, zstandard.ZstdError, padded=False, at_once=ZSTD_AT_ONCE)


def _lines_of(path: Path, columns: Columns, bad: BadRecords, packing: Blocks) -> FrontToBack[bytes | None]:
    lines = lambda: _lines(packing.blocks(path), columns.largest)  # noqa: E731
    return FrontToBack(path, columns, bad, lines, _parse_bounded, "line")


def _parse_bounded(line: bytes | None, first: bool, columns: Columns, place: object) -> Document | None:
    if line is None:
        raise BadRecordError(place, columns.too_large)
    return parse_line(line, first, columns, place)


def _array_of(path: Path, columns: Columns, bad: BadRecords, packing: Blocks) -> FrontToBack[Any] | None:
    """Return a reader of the file's array; None if it does not start with a bracket: then it holds lines."""
    for _, block in packing.blocks(path):
        start = block.removeprefix(codecs.BOM_UTF8).lstrip(b" \t\r\n")
        if start:
            if not start.startswith(b"["):
                return None
            elements = lambda: iter(ArrayElements(path, packing.blocks(path), columns))  # noqa: E731
            return FrontToBack(path, columns, bad, elements, parse_element, "element")
    return None


def _read_blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    place = 0
    with open(path, "rb") as file:
        while block := file.read(PACKED_BYTES):
            yield place, block
            place += len(block)


def _lines(blocks: Iterator[tuple[int, bytes]], largest: int) -> Iterator[tuple[int, bytes | None]]:
    """Split blocks into (place of the block that ends it, line); long lines are joined once, not once per block.

    None stands for a line of more than `largest` bytes, as soon as it is known to be one; its rest is dropped.
    """
    pieces: list[bytes] = []
    size = place = 0
    for place, block in blocks:
        first, *rest = block.split(b"\n")
        before, size = size, size + len(first)
        if size > largest:
            pieces.clear()
            if before <= largest:
                yield place, None
        else:
            pieces.append(first)
        if rest:
            if size <= largest:
                yield place, b"".join(pieces)
            for line in rest[:-1]:
                yield place, line if len(line) <= largest else None
            pieces, size = [rest[-1]], len(rest[-1])
            if size > largest:
                pieces.clear()
                yield place, None
    if size <= largest:
        yield place, b"".join(pieces)


def _rest_of_line(file: BinaryIO) -> int:
    """Read to the end of the current line, in bounded memory; return the number of bytes read."""
    size = 0
    while piece := file.readline(BLOCK_BYTES):
        size += len(piece)
        if piece.endswith(b"\n"):
            break
    return size


def _damaged(path: Path, kind: str, error: object) -> str:
    return f"{path}: cannot be read as {kind} to its end ({error}): it is truncated or corrupt; download it again"
