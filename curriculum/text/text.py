"""The input text: documents from files, folders and globs, or from a Hugging Face dataset."""

from __future__ import annotations

import glob
import os
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Protocol

from curriculum.text.document import Columns, Document
from curriculum.text.formats import READERS, FileReader, file_format, open_file, stem

SHOWN_NAMES = 5


@dataclass(frozen=True)
class TextSettings:
    """The input text: either `paths` or `dataset`."""

    paths: list[str] = field(default_factory=list)
    """Files (.jsonl, .jsonl.gz, .jsonl.zst, .parquet, .txt), folders or globs. Folders are read in the order of the
    files' relative paths; a .txt file is one document whose source is its folder's name."""
    dataset: str | None = None
    """Name of a Hugging Face dataset, or a local dataset folder, loaded with `datasets`."""
    subset: str | None = None
    """Configuration of the dataset (the second argument of `load_dataset`)."""
    split: str = "train"
    """Split of the dataset."""
    revision: str | None = None
    """Revision of the dataset on the Hub; set one to pin it."""
    streaming: bool = False
    """Stream the dataset instead of downloading it first. It is read a second time if a tokenizer is trained."""
    text_column: str = "text"
    """Column with the document's text."""
    source_column: str | None = "source"
    """Column with the name of the document's source. null: the file's name without its extension, or the dataset's
    name."""

    def __post_init__(self) -> None:
        if self.paths and self.dataset:
            raise ValueError(
                f"input.paths={self.paths} and input.dataset={self.dataset!r} exclude each other: remove one"
            )
        if not self.text_column:
            raise ValueError("input.text_column is empty: name the column with the text")
        if self.source_column == "":
            raise ValueError("input.source_column is empty: name a column, or use null for one source per file")
        if not self.dataset and (self.subset or self.revision or self.streaming):
            raise ValueError(
                "input.subset, input.revision and input.streaming need input.dataset: set it or remove them"
            )


class Text(Protocol):
    """An opened input: its documents can be read more than once, always in the same order.

    Every document has a place, an integer below `places` that depends only on the input; ranges of places split the
    input into parts for different processes.
    """

    notes: list[str]
    places: int
    """Bytes of files, rows of a dataset, or shards of a stream."""
    place_bytes: int
    """Approximate bytes per place."""
    spans: list[tuple[str, int, int]]
    """Parts of files in the range that was read last, if known: file, and its range of bytes, lines or rows, end
    exclusive. The next range starts where this one ends."""

    @property
    def fraction_read(self) -> float | None:
        """Share of the input read by the current `documents()`, in [0, 1]; None if unknown."""

    def identity(self) -> dict[str, str]:
        """Cheap description that changes with the text."""

    def check(self) -> None:
        """Read the start of every part, so that a wrong column fails before the work starts."""

    def documents(self, start: int = 0, stop: int | None = None) -> Iterator[Document]:
        """Yield the documents at the places start .. stop - 1, by default all.

        Raises ValueError with file, line or row, and a fix.
        """


@dataclass(frozen=True)
class _File:
    name: str  # unique in the input and independent of the input's location
    path: Path


class FileText:
    """Documents of files on disk, in an order that does not depend on the file system."""

    def __init__(self, paths: list[str], text_column: str, source_column: str | None) -> None:
        self.notes: list[str] = []
        self._text_column, self._source_column = text_column, source_column
        self._files = self._find(paths)
        self._sizes = [file.path.stat().st_size for file in self._files]
        self._bases = [0, *accumulate(max(size, 1) for size in self._sizes)]
        """First place of each file, then the end; an empty .txt has a place too."""
        self.places, self.place_bytes = self._bases[-1], 1
        self.spans: list[tuple[str, int, int]] = []
        self._read_to = 0
        self._opened: tuple[int, FileReader] | None = None
        self._check_empty()

    def _find(self, paths: list[str]) -> list[_File]:
        files: list[_File] = []
        seen: set[Path] = set()
        for number, entry in enumerate(paths):
            for name, path in _expand(entry, self.notes):
                real = path.resolve()
                if real in seen:
                    self.notes.append(f"{path} is listed twice by input.paths: read once")
                    continue
                seen.add(real)
                files.append(_File(f"{number}/{name}", path))
        return files

    def _check_empty(self) -> None:
        # An empty .txt is an empty document, which is counted; any other empty file is a failed download.
        empty = [file for file, size in zip(self._files, self._sizes, strict=True) if size == 0]
        broken = [file for file in empty if file_format(file.path.name) != ".txt"]
        if broken or len(empty) == len(self._files):
            raise ValueError(
                f"{(broken or empty)[0].path} is empty (0 bytes): remove it from the input or download it again"
            )

    @property
    def fraction_read(self) -> float | None:
        """Share of the files' bytes read so far."""
        return self._read_to / max(self.places, 1)

    def identity(self) -> dict[str, str]:
        """Return the size in bytes and the modification time of every file by relative name."""
        described = {}
        for file in self._files:
            status = file.path.stat()
            described[f"text/{file.name}"] = f"bytes={status.st_size} mtime_ns={status.st_mtime_ns}"
        return described

    def check(self) -> None:
        """Read the first document of every file with columns. Raises ValueError with the file."""
        for index, file in enumerate(self._files):
            if file_format(file.path.name) != ".txt":
                next(self._whole(index), None)

    def documents(self, start: int = 0, stop: int | None = None) -> Iterator[Document]:
        """Yield the documents of a range of places, file by file; a place is a byte of the files in their order.

        Raises ValueError with file, line or row, and a fix.
        """
        stop = self.places if stop is None else stop
        self.spans = []
        for index in range(bisect_right(self._bases, start) - 1, len(self._files)):
            base, end = self._bases[index : index + 2]
            if base >= stop:
                return
            whole = start <= base and end <= stop
            part = self._whole(index) if whole else self._part(index, max(start, base) - base, min(stop, end) - base)
            for place, document in part:
                self._read_to = base + place
                yield document
            self._read_to = min(end, stop)
            if (span := self._reader(index).span) is not None:
                self.spans.append((self._files[index].name, *span))

    def _whole(self, index: int) -> Iterator[tuple[int, Document]]:
        count = 0
        for found in self._part(index, 0, self._bases[index + 1] - self._bases[index]):
            count += 1
            yield found
        if count == 0:
            raise ValueError(f"{self._files[index].path} contains no documents: remove it from the input or fill it")

    def _part(self, index: int, start: int, stop: int) -> Iterator[tuple[int, Document]]:
        return self._reader(index).documents(start, stop)

    def _reader(self, index: int) -> FileReader:
        """Return the reader of a file; it is kept until another file is read, since it may resume at its position."""
        if self._opened is None or self._opened[0] != index:
            file = self._files[index]
            columns = Columns(self._text_column, self._source_column, stem(file.path.name))
            self._opened = index, open_file(file.path, columns)
        return self._opened[1]


def open_text(settings: TextSettings) -> Text:
    """Open an input: find its files or load its dataset. Raises ValueError with what is missing and a fix."""
    if settings.dataset:
        from curriculum.text.dataset import DatasetText

        return DatasetText(
            settings.dataset,
            subset=settings.subset,
            split=settings.split,
            revision=settings.revision,
            streaming=settings.streaming,
            text_column=settings.text_column,
            source_column=settings.source_column,
        )
    if not settings.paths:
        raise ValueError("no input given: set input.paths to files, folders or globs, or input.dataset to a name")
    return FileText(settings.paths, settings.text_column, settings.source_column)


def _expand(entry: str, notes: list[str]) -> Iterator[tuple[str, Path]]:
    """Yield (relative name, path) of every file that one item of input.paths matches, sorted by name."""
    place = Path(entry).expanduser()
    if place.is_dir():
        yield from sorted(_folder_files(place, place, notes))
    elif place.is_file():
        yield _known(place.name, place)
    elif glob.has_magic(entry):
        base = _fixed_part(place)
        found: dict[str, Path] = {}
        for match in map(Path, glob.glob(str(place), recursive=True)):
            if match.is_dir():
                found.update(_folder_files(match, base, notes, required=False))
            else:
                found.update([_known(match.relative_to(base).as_posix(), match)])
        if not found:
            raise ValueError(f"input.paths: no file matches {entry!r}: check the pattern and the working directory")
        yield from sorted(found.items())
    else:
        raise ValueError(f"input.paths: {entry!r} does not exist: check the path (relative to {os.getcwd()})")


def _folder_files(folder: Path, base: Path, notes: list[str], required: bool = True) -> list[tuple[str, Path]]:
    """List a folder's files of known formats; hidden files are skipped, others are reported in `notes`."""
    known, other = [], []
    for place, folders, names in os.walk(folder):
        linked = [name for name in folders if os.path.islink(os.path.join(place, name))]
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in [*names, *linked]:
            path = Path(place, name)
            if name.startswith("."):
                continue
            if file_format(name) is None or name in linked:
                other.append(path.relative_to(folder).as_posix())
            else:
                known.append((path.relative_to(base).as_posix(), path))
    shown = ", ".join(sorted(other)[:SHOWN_NAMES]) + (", ..." if len(other) > SHOWN_NAMES else "")
    if not known and required:
        there = f"it contains {shown}" if other else "it contains no files"
        raise ValueError(f"input.paths: {folder} has no file that PDPC reads ({', '.join(READERS)}); {there}")
    if other:
        notes.append(f"{folder}: {len(other)} entries skipped, not text files with a known extension: {shown}")
    return known


def _known(name: str, path: Path) -> tuple[str, Path]:
    if file_format(path.name) is None:
        raise ValueError(f"input.paths: {path} has an unknown extension: PDPC reads {', '.join(READERS)}")
    return name, path


def _fixed_part(pattern: Path) -> Path:
    """Return the leading folders of a glob without wildcards."""
    fixed: list[str] = []
    for part in pattern.parent.parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)
