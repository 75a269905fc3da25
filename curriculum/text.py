"""Text in: documents from files, folders and globs of files, or from a Hugging Face dataset."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from curriculum.text_formats import READERS, Columns, Document, Position, file_format, read_file, stem

SHOWN_NAMES = 5


@dataclass(frozen=True)
class TextSettings:
    """Where the text comes from: `paths` or `dataset`, one of the two."""

    paths: list[str] = field(default_factory=list)
    """Files (.jsonl, .jsonl.gz, .jsonl.zst, .parquet, .txt), folders or globs of them. Folders are read in the
    order of the files' relative paths; a .txt file is one document, its folder's name its source."""
    dataset: str | None = None
    """Name of a Hugging Face dataset or a local dataset folder, read through `datasets`."""
    subset: str | None = None
    """Configuration of the dataset (`load_dataset`'s second argument)."""
    split: str = "train"
    """Split of the dataset."""
    revision: str | None = None
    """Revision of the dataset on the hub; give one to pin it."""
    streaming: bool = False
    """Stream the dataset instead of downloading it first. It is read once more when a tokenizer is trained."""
    text_column: str = "text"
    """Column that holds the document's text."""
    source_column: str | None = "source"
    """Column that holds the name of the document's source. null: the file's name without its extension, or the
    dataset's name."""

    def __post_init__(self) -> None:
        if self.paths and self.dataset:
            raise ValueError(
                f"input.paths={self.paths} and input.dataset={self.dataset!r} exclude each other: drop one"
            )
        if not self.text_column:
            raise ValueError("input.text_column is empty: name the column that holds the text")
        if self.source_column == "":
            raise ValueError("input.source_column is empty: name a column, or use null for one source a file")
        if not self.dataset and (self.subset or self.revision or self.streaming):
            raise ValueError("input.subset, input.revision and input.streaming need input.dataset: set it or drop them")


class Text(Protocol):
    """An opened input: documents that can be read more than once, always in the same order."""

    notes: list[str]

    @property
    def fraction_read(self) -> float | None:
        """Share of the input read by the running `documents()`, in [0, 1]; None when unknown."""

    def identity(self) -> dict[str, str]:
        """Cheap description that changes when the text changes."""

    def check(self) -> None:
        """Look at the start of every part, so that a wrong column fails before the work begins."""

    def documents(self) -> Iterator[Document]:
        """Yield every document. Raises ValueError naming file, line or row, and the mend."""


@dataclass(frozen=True)
class _File:
    name: str  # unique in the input and free of the place where the input lies
    path: Path


class FileText:
    """Documents of files on disk, in an order that does not depend on the file system."""

    def __init__(self, paths: list[str], text_column: str, source_column: str | None) -> None:
        self.notes: list[str] = []
        self._text_column, self._source_column = text_column, source_column
        self._files = self._find(paths)
        self._sizes = {file.name: file.path.stat().st_size for file in self._files}
        self._position = Position()
        self._check_empty()

    def _find(self, paths: list[str]) -> list[_File]:
        files: list[_File] = []
        seen: set[Path] = set()
        for number, entry in enumerate(paths):
            for name, path in _expand(entry, self.notes):
                real = path.resolve()
                if real in seen:
                    self.notes.append(f"{path} is reached twice by input.paths: read once")
                    continue
                seen.add(real)
                files.append(_File(f"{number}/{name}", path))
        return files

    def _check_empty(self) -> None:
        # An empty .txt is an empty document, which is counted; any other empty file is a failed download.
        empty = [file for file in self._files if self._sizes[file.name] == 0]
        broken = [file for file in empty if file_format(file.path.name) != ".txt"]
        if broken or len(empty) == len(self._files):
            raise ValueError(
                f"{(broken or empty)[0].path} is empty (0 bytes): remove it from the input or get it again"
            )

    @property
    def fraction_read(self) -> float | None:
        """Share of the files' bytes read so far."""
        return min(self._position.bytes / max(sum(self._sizes.values()), 1), 1.0)

    def identity(self) -> dict[str, str]:
        """Return relative name -> size in bytes and time of the last change of every file."""
        described = {}
        for file in self._files:
            status = file.path.stat()
            described[f"text/{file.name}"] = f"bytes={status.st_size} mtime_ns={status.st_mtime_ns}"
        return described

    def check(self) -> None:
        """Read the first document of every file that has columns. Raises ValueError naming the file."""
        for file in self._files:
            if file_format(file.path.name) != ".txt":
                next(read_file(file.path, self._columns(file), Position()), None)

    def documents(self) -> Iterator[Document]:
        """Yield every document, file after file. Raises ValueError naming file, line or row, and the mend."""
        self._position.bytes = 0
        for file in self._files:
            yield from read_file(file.path, self._columns(file), self._position)

    def _columns(self, file: _File) -> Columns:
        return Columns(self._text_column, self._source_column, stem(file.path.name))


def open_text(settings: TextSettings) -> Text:
    """Open an input: find its files or load its dataset. Raises ValueError naming what is missing and the mend."""
    if settings.dataset:
        from curriculum.text_dataset import DatasetText

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
        raise ValueError("there is no input: set input.paths to files, folders or globs, or input.dataset to a name")
    return FileText(settings.paths, settings.text_column, settings.source_column)


def documents(settings: TextSettings) -> Iterator[Document]:
    """Yield the documents of an input as (text, source), streamed in bounded memory."""
    return open_text(settings).documents()


def input_identity(settings: TextSettings) -> dict[str, str]:
    """Describe an input without reading it: it changes when files, sizes, times or the dataset change."""
    return open_text(settings).identity()


def _expand(entry: str, notes: list[str]) -> Iterator[tuple[str, Path]]:
    """Yield (relative name, path) of every file that one item of input.paths stands for, sorted by name."""
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
            raise ValueError(f"input.paths: no file matches {entry!r}: check the pattern and the folder you are in")
        yield from sorted(found.items())
    else:
        raise ValueError(f"input.paths: {entry!r} does not exist: check the path (relative to {os.getcwd()})")


def _folder_files(folder: Path, base: Path, notes: list[str], required: bool = True) -> list[tuple[str, Path]]:
    """List the files of a folder that hold text; hidden files are not looked at, other files are noted."""
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
        there = f"it holds {shown}" if other else "it holds no file"
        raise ValueError(f"input.paths: {folder} has no file that PDPC reads ({', '.join(READERS)}); {there}")
    if other:
        notes.append(f"{folder}: {len(other)} entries left out, not text files of a known extension: {shown}")
    return known


def _known(name: str, path: Path) -> tuple[str, Path]:
    if file_format(path.name) is None:
        raise ValueError(f"input.paths: {path} has an unknown extension: PDPC reads {', '.join(READERS)}")
    return name, path


def _fixed_part(pattern: Path) -> Path:
    """Return the leading folders of a glob that hold no wildcard."""
    fixed: list[str] = []
    for part in pattern.parent.parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return Path(*fixed)
