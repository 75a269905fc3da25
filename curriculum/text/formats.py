"""Text files, read one document at a time: .jsonl and .json (plain, .gz, .zst), .parquet, .txt, in bounded memory.

Every document has a place in its file, so that ranges of places split a file into parts for different processes.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from curriculum.text.document import BadRecordError, BadRecords, Columns, Document, decode
from curriculum.text.lines import PlainLines, gzip_json, gzip_lines, plain_json, zstd_json, zstd_lines
from curriculum.text.parquet import ParquetRows
from curriculum.text.source_names import folder_name

STARTS = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}
"""First bytes of compressed files. No text in UTF-8 starts with them."""
SKIPPABLE = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
"""Start of a zstd frame that holds no data, which some tools write first."""
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class FileReader(Protocol):
    """Reads the documents of a file by place: integers from 0, below the file's size in bytes.

    A document's place depends only on the file; places never decrease from one document to the next.
    """

    span: tuple[int, int] | None
    """Range that was read last, in bytes, lines or rows, end exclusive; the next range starts where it ends."""

    def documents(self, start: int, stop: int) -> Iterator[tuple[int, Document]]:
        """Yield (place, document) for the places start .. stop - 1.

        Raises ValueError with the file, the line or row, and a fix.
        """


def file_format(name: str) -> str | None:
    """Return the supported extension of `name`, or None if it is unknown."""
    lowered = name.lower()
    return next((extension for extension in READERS if lowered.endswith(extension)), None)


def stem(name: str) -> str:
    """Return a file's name without folder and known extension: "web/en.jsonl.gz" -> "en"."""
    base = Path(name).name
    return base[: -len(file_format(base) or "")] or base


def open_file(path: Path, columns: Columns, bad: BadRecords) -> FileReader:
    """Return the reader for a file's format. Raises ValueError for an unknown extension or a damaged start."""
    extension = file_format(path.name)
    if extension is None:
        raise ValueError(f"{path} has an unknown extension: PDPC reads {', '.join(READERS)}")
    _check_start(path, extension)
    return READERS[extension](path, columns, bad)


def _check_start(path: Path, extension: str) -> None:
    """Raise ValueError if a file's first bytes show another format than its extension, or what a download left."""
    with open(path, "rb") as file:
        start = file.read(len(LFS_POINTER))
    if start == LFS_POINTER:
        raise ValueError(f"{path} is a Git LFS pointer, not the file itself: fetch it with `git lfs pull`")
    start = start.lstrip(b"\0") if extension.endswith(".gz") else start
    kind = next((kind for magic, kind in STARTS.items() if start.startswith(magic)), None)
    own = "." + extension.rpartition(".")[2]
    if kind is not None and kind != own:
        raise ValueError(f"{path} is a {kind} file by its first bytes, but not by its name: rename it")
    if own in (".gz", ".zst") and start and kind is None and not SKIPPABLE.match(start):
        raise ValueError(f"{path} does not start like a {own} file ({start[:16]!r}): rename it, or download it again")


class WholeText:
    """A file that is a single document, at place 0."""

    def __init__(self, path: Path, columns: Columns, bad: BadRecords) -> None:
        self._path, self._columns, self._bad = path, columns, bad
        self.span: tuple[int, int] | None = None

    def documents(self, start: int, stop: int) -> Iterator[tuple[int, Document]]:
        """Yield the document if the range starts at 0."""
        if start == 0:
            try:
                with open(self._path, "rb") as file:
                    data = file.read(self._columns.largest + 1)
                self._columns.check_size(len(data), self._path)
                text = decode(data.removeprefix(codecs.BOM_UTF8), self._path)
                document = self._columns.whole(text, folder_name(self._path), self._path)
            except BadRecordError as error:
                self._bad.add(error)
                return
            yield 0, document


READERS: dict[str, Callable[[Path, Columns, BadRecords], FileReader]] = {
    ".jsonl": PlainLines,
    ".jsonl.gz": gzip_lines,
    ".jsonl.zst": zstd_lines,
    ".json": plain_json,
    ".json.gz": gzip_json,
    ".json.zst": zstd_json,
    ".parquet": ParquetRows,
    ".txt": WholeText,
}
