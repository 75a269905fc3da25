"""Text files, read one document at a time: .jsonl (plain, .gz, .zst), .parquet and .txt, in bounded memory."""

from __future__ import annotations

import codecs
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from curriculum.parquet import open_parquet

BLOCK_BYTES = 1 << 20
ZSTD_BLOCK_BYTES = 1 << 15  # compressed; small, since one block can unpack to many times its size
PARQUET_ROWS = 256


class Document(NamedTuple):
    """One text and the name of the source it belongs to."""

    text: str
    source: str


@dataclass(frozen=True)
class Columns:
    """Names of the text and the source column; without a source column every document's source is `fallback`."""

    text: str
    source: str | None
    fallback: str

    def document(self, record: dict[str, Any], place: str) -> Document:
        """Take text and source from a record. Raises ValueError, naming `place`, when one is not usable text."""
        text = self._field(record, self.text, "text_column", place)
        if self.source is None:
            return Document(text, self.fallback)
        source = self._field(record, self.source, "source_column", place)
        if not source:
            raise ValueError(f"{place}: column {self.source!r} is empty: name the source, or set source_column=null")
        return Document(text, source)

    def check(self, names: list[str], place: str) -> None:
        """Raise ValueError when a column is not among `names`."""
        for name, key in ((self.text, "text_column"), (self.source, "source_column")):
            if name is not None and name not in names:
                raise ValueError(_missing(place, name, key, names))

    def _field(self, record: dict[str, Any], name: str, key: str, place: str) -> str:
        if name not in record:
            raise ValueError(_missing(place, name, key, list(record)))
        value = record[name]
        if not isinstance(value, str):
            found = "null" if value is None else type(value).__name__
            raise ValueError(f"{place}: column {name!r} holds {found}, not text: remove or mend that record")
        return value


class Position:
    """How many bytes of the input's files have been read, for progress."""

    def __init__(self) -> None:
        self.bytes = 0


def file_format(name: str) -> str | None:
    """Return the extension this module reads `name` by, or None for an unknown one."""
    lowered = name.lower()
    return next((extension for extension in READERS if lowered.endswith(extension)), None)


def stem(name: str) -> str:
    """Return a file's name without its folder and its known extension: "web/en.jsonl.gz" -> "en"."""
    base = Path(name).name
    return base[: -len(file_format(base) or "")] or base


def read_file(path: Path, columns: Columns, position: Position) -> Iterator[Document]:
    """Yield the documents of one file; `position` follows the bytes read.

    Raises ValueError naming the file, the line or row, and the mend.
    """
    extension = file_format(path.name)
    if extension is None:
        raise ValueError(f"{path} has an unknown extension: PDPC reads {', '.join(READERS)}")
    count = 0
    for document in READERS[extension](path, columns, position):
        count += 1
        yield document
    if count == 0:
        raise ValueError(f"{path} holds no document: remove it from the input or fill it")


def _read_text(path: Path, columns: Columns, position: Position) -> Iterator[Document]:
    raw = path.read_bytes()
    position.bytes += len(raw)
    yield Document(_decode(raw.removeprefix(codecs.BOM_UTF8), str(path)), path.absolute().parent.name)


def _read_json(blocks: Callable[[Path, Position], Iterator[bytes]]) -> Reader:
    def read(path: Path, columns: Columns, position: Position) -> Iterator[Document]:
        for number, line in enumerate(_lines(blocks(path, position)), start=1):
            if number == 1:
                line = line.removeprefix(codecs.BOM_UTF8)
            if line and not line.isspace():
                yield _parse_line(line, columns, f"{path}, line {number}")

    return read


def _parse_line(line: bytes, columns: Columns, place: str) -> Document:
    try:
        record = json.loads(_decode(line, place))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{place}: broken JSON ({error}): every line must be one JSON object") from error
    if not isinstance(record, dict):
        raise ValueError(f"{place}: holds a {type(record).__name__}, every line must be one JSON object")
    document = columns.document(record, place)
    if b"\\u" in line:  # only an escape can smuggle half a surrogate pair past the UTF-8 check
        for value in document:
            _check_surrogates(value, place)
    return document


def _check_surrogates(text: str, place: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place}: holds half a surrogate pair ({error.reason}): mend or remove it") from error


def _read_parquet(path: Path, columns: Columns, position: Position) -> Iterator[Document]:
    import pyarrow as pa

    size = path.stat().st_size
    row = 0
    try:
        with open_parquet(path) as file:
            columns.check(file.schema_arrow.names, str(path))
            wanted = [columns.text] if columns.source in (None, columns.text) else [columns.text, columns.source]
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=wanted):
                for record in batch.to_pylist():
                    row += 1
                    yield columns.document(record, f"{path}, row {row}")
                position.bytes += size * batch.num_rows // max(file.metadata.num_rows, 1)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}, after row {row}: invalid UTF-8 ({error.reason}): mend that text") from error
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}, after row {row}: cannot be read as Parquet ({error}): it is torn or foreign; get it again"
        ) from error


def _plain_blocks(path: Path, position: Position) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(BLOCK_BYTES):
            position.bytes += len(block)
            yield block


def _gzip_blocks(path: Path, position: Position) -> Iterator[bytes]:
    with open(path, "rb") as raw, gzip.open(raw) as file:
        start, seen = position.bytes, 0
        while True:
            try:
                block = file.read(BLOCK_BYTES)
            except (EOFError, OSError, zlib.error) as error:
                raise ValueError(_torn(path, "gzip", error)) from error
            if not block:
                return
            seen = raw.tell()
            position.bytes = start + seen
            yield block


def _zstd_blocks(path: Path, position: Position) -> Iterator[bytes]:
    """Decompress frame by frame: unlike zstandard's stream reader, this notices a last frame that was cut off."""
    import zstandard

    unpack = zstandard.ZstdDecompressor()
    frame: zstandard.ZstdDecompressionObj | None = None
    try:
        for block in _read_compressed(path, position):
            while block:
                frame = frame or unpack.decompressobj()
                data = frame.decompress(block)
                block = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
                if data:
                    yield data
    except zstandard.ZstdError as error:
        raise ValueError(_torn(path, "zstd", error)) from error
    if frame is not None:
        raise ValueError(_torn(path, "zstd", "the last frame ends early"))


def _read_compressed(path: Path, position: Position) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while block := file.read(ZSTD_BLOCK_BYTES):
            position.bytes += len(block)
            yield block


def _lines(blocks: Iterator[bytes]) -> Iterator[bytes]:
    """Split blocks into lines without copying a long line once a block."""
    pieces: list[bytes] = []
    for block in blocks:
        first, *rest = block.split(b"\n")
        pieces.append(first)
        if rest:
            yield b"".join(pieces)
            yield from rest[:-1]
            pieces = [rest[-1]]
    yield b"".join(pieces)


def _decode(raw: bytes, place: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{place}: invalid UTF-8 at byte {error.start} ({error.reason}): convert the file to UTF-8"
        ) from error


def _missing(place: str, name: str, key: str, names: list[str]) -> str:
    mend = f"set input.{key} to one of them"
    if key == "source_column":
        mend += ", or to null to take one source a file"
    return f"{place}: column {name!r} is missing; there are {', '.join(sorted(map(str, names))) or 'none'}: {mend}"


def _torn(path: Path, kind: str, error: object) -> str:
    return f"{path}: cannot be read as {kind} to its end ({error}): it is truncated or damaged; get it again"


Reader = Callable[[Path, Columns, Position], Iterator[Document]]
READERS: dict[str, Reader] = {
    ".jsonl": _read_json(_plain_blocks),
    ".jsonl.gz": _read_json(_gzip_blocks),
    ".jsonl.zst": _read_json(_zstd_blocks),
    ".parquet": _read_parquet,
    ".txt": _read_text,
}
