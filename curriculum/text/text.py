"""The input text: documents from files, folders and globs, or from a Hugging Face dataset."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from curriculum.text.document import LARGEST_DOCUMENT, BadRecords, Columns, Document
from curriculum.text.files import TextFile, find_files
from curriculum.text.formats import FileReader, file_format, open_file, stem
from curriculum.text.source_names import looks_numbered, source_by_name

SHOWN_NAMES = 5
TRAIN_SPLIT = "train"
COMPLETE_WHEN_EMPTY = (".parquet", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst")
"""Formats whose files show that they are complete, even without a record."""
SOURCE_MARK = " source="
"""In the description of a file: its source, where that is not the file's name."""


@dataclass(frozen=True)
class InputSettings:
    """Records of files or of a dataset: either `paths` or `dataset`."""

    paths: list[str] = field(default_factory=list)
    """Files (.jsonl and .json, plain, .gz or .zst; .parquet; .txt), folders or globs. Folders are read in the order of
    the files' relative paths. A .json file holds one object per line, or one array of objects; a .txt file is one
    document whose source is its folder's name."""
    dataset: str | None = None
    """Name of a Hugging Face dataset, a local dataset folder, or a format that `datasets` loads (csv, json, parquet,
    arrow, ...; then `data_files` names the files)."""
    data_files: list[str] = field(default_factory=list)
    """Files or globs of the dataset that make up the split (`data_files` of `load_dataset`); empty: all."""
    subset: str | None = None
    """Configuration of the dataset (the second argument of `load_dataset`)."""
    split: str = TRAIN_SPLIT
    """Split of the dataset, or a part or sum of splits: train[:50%], train+validation."""
    revision: str | None = None
    """Revision of the dataset on the Hub; set one to pin it."""
    streaming: bool = False
    """Stream the dataset instead of downloading it first. It is read a second time if a tokenizer is trained."""
    source_column: str | None = "source"
    """Column with the name of the document's source; a dot leads into nested objects: meta.set. null: the name of the
    file's folder if that is a subfolder of the input, else the file's name without its extension (its folder's name if
    that is only a shard number, such as part-0); the name of a dataset."""
    max_document_bytes: int = LARGEST_DOCUMENT
    """Most bytes of a document, line or array element, uncompressed: a file may unpack to any size. A longer one is a
    record that cannot be used. A process needs a few times as much memory."""

    def __post_init__(self) -> None:
        if self.paths and self.dataset:
            raise ValueError(
                f"input.paths={self.paths} and input.dataset={self.dataset!r} exclude each other: remove one"
            )
        if self.source_column == "":
            raise ValueError(
                "input.source_column is empty: name a column, or use null for one source per file or folder"
            )
        if self.max_document_bytes < 1:
            raise ValueError(f"input.max_document_bytes={self.max_document_bytes} must be at least 1")
        if not self.dataset:
            given: dict[str, object] = {"data_files": self.data_files, "subset": self.subset, "revision": self.revision}
            given |= {"streaming": self.streaming, "split": self.split if self.split != TRAIN_SPLIT else ""}
            if names := [f"input.{name}={value}" for name, value in given.items() if value]:
                raise ValueError(
                    f"{', '.join(names)}: these need input.dataset, but it is not set: set it or remove them"
                )

    def content(self) -> dict[str, Any]:
        """Return the settings that determine the documents as JSON values, without `data_files` if there are none."""
        content = {name: value for name, value in asdict(self).items() if name != "data_files" or value}
        del content["max_document_bytes"]
        return content


@dataclass(frozen=True)
class TextSettings(InputSettings):
    """The input text: either `paths` or `dataset`."""

    text_column: str = "text"
    """Column with the document's text. A dot leads into nested objects: data.text."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.text_column:
            raise ValueError("input.text_column is empty: name the column with the text")

    @property
    def columns(self) -> Columns:
        """The columns to read."""
        return Columns(self.text_column, self.source_column, "", self.max_document_bytes)


class Text(Protocol):
    """An opened input: its documents can be read more than once, always in the same order.

    Every document has a place, an integer below `places` that depends only on the input; ranges of places split the
    input into parts for different processes.
    """

    notes: list[str]
    """What is worth saying about the input; `check()` may add to it."""
    bad: BadRecords
    """Records skipped in the range that was read last."""
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
        """Read the first usable document of every part, so that a wrong column fails before the work starts."""

    def documents(self, start: int = 0, stop: int | None = None) -> Iterator[Document]:
        """Yield the documents at the places start .. stop - 1, by default all.

        Raises ValueError with file, line or row, and a fix.
        """


class FileText:
    """Documents of files on disk, in an order that does not depend on the file system."""

    def __init__(self, paths: list[str], columns: Columns, bad: BadRecords | None = None) -> None:
        self.notes: list[str] = []
        self.bad = bad or BadRecords()
        self._columns, source_column = columns, columns.source
        self._files = find_files(paths, self.notes)
        self._sizes = [file.path.stat().st_size for file in self._files]
        self._bases = [0, *accumulate(max(size, 1) for size in self._sizes)]
        """First place of each file, then the end; an empty .txt has a place too."""
        self.places, self.place_bytes = self._bases[-1], 1
        self.spans: list[tuple[str, int, int]] = []
        self._read_to = 0
        self._opened: tuple[int, FileReader] | None = None
        self._check_empty()
        for file in self._files:
            if (source_column is None or not _has_columns(file)) and not _is_text(self._source_of(file)):
                raise ValueError(f"{file.path}: the name is not UTF-8, but a source takes it: rename it")
        if source_column is None:
            self._check_sources()

    def _check_empty(self) -> None:
        # An empty .txt is an empty document, which is counted; any other empty file is a failed download.
        empty = [file for file, size in zip(self._files, self._sizes, strict=True) if size == 0]
        broken = [file for file in empty if _has_columns(file)]
        if broken or len(empty) == len(self._files):
            raise ValueError(
                f"{(broken or empty)[0].path} is empty (0 bytes): remove it from the input or download it again"
            )

    def _check_sources(self) -> None:
        """Note the sources that are named after files or folders and look like shards rather than domains."""
        numbered = sorted({name for name in map(self._source_of, self._files) if looks_numbered(name)})
        shards = sorted(
            {
                stem(file.path.name)
                for file in self._files
                if not file.nested and self._source_of(file) != stem(file.path.name) and _has_columns(file)
            }
        )
        fix = "one folder per source below the input is clearer; or set input.source_column"
        if numbered:
            self.notes.append(f"warning: sources named like shard numbers ({_some(numbered)}): {fix}")
        if shards:
            self.notes.append(
                f"warning: files named like shard numbers ({_some(shards)}) take their folder's name as source: {fix}"
            )

    def _source_of(self, file: TextFile) -> str:
        """Return the source of a file's documents without a source column."""
        return source_by_name(stem(file.path.name), file.nested or not _has_columns(file), file.path)

    @property
    def fraction_read(self) -> float | None:
        """Share of the files' bytes read so far."""
        return self._read_to / max(self.places, 1)

    def identity(self) -> dict[str, str]:
        """Return the size in bytes and the modification time of every file by relative name.

        Also its source, if no column names it and it is not the file's name.
        """
        described = {}
        for file in self._files:
            status = file.path.stat()
            key = f"text/{file.name}"
            described[key] = f"bytes={status.st_size} mtime_ns={status.st_mtime_ns}"
            if self._columns.source is None and _has_columns(file):
                source = self._source_of(file)
                described[key] += f"{SOURCE_MARK}{source}" if source != stem(file.path.name) else ""
        return described

    def check(self) -> None:
        """Read the first document of every file with columns. Raises ValueError with the file."""
        empty = [file for index, file in enumerate(self._files) if _has_columns(file) and self._is_empty(index)]
        if len(empty) == len(self._files):
            raise ValueError(_no_documents(empty[0].path))
        if empty:
            names = _some([str(file.path) for file in empty])
            self.notes.append(f"note: {len(empty)} files are complete but contain no documents: {names}")

    def _is_empty(self, index: int) -> bool:
        return next(self._whole(index), None) is None

    def documents(self, start: int = 0, stop: int | None = None) -> Iterator[Document]:
        """Yield the documents of a range of places, file by file; a place is a byte of the files in their order.

        Raises ValueError with file, line or row, and a fix.
        """
        stop = self.places if stop is None else stop
        self.spans = []
        self.bad.skipped.clear()
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
        count, before = 0, len(self.bad.skipped)
        for found in self._part(index, 0, self._bases[index + 1] - self._bases[index]):
            count += 1
            yield found
        if count:
            return
        path, skipped = self._files[index].path, self.bad.skipped[before:]
        if skipped and _has_columns(self._files[index]):
            (place, reason), *_ = skipped
            raise ValueError(f"{path}: all its {len(skipped)} records are bad; the first is {place}: {reason}")
        may_be_empty = file_format(path.name) in COMPLETE_WHEN_EMPTY and len(self._files) > 1
        if not skipped and not may_be_empty:
            raise ValueError(_no_documents(path))

    def _part(self, index: int, start: int, stop: int) -> Iterator[tuple[int, Document]]:
        return self._reader(index).documents(start, stop)

    def _reader(self, index: int) -> FileReader:
        """Return the reader of a file; it is kept until another file is read, since it may resume at its position."""
        if self._opened is None or self._opened[0] != index:
            file = self._files[index]
            columns = replace(self._columns, fallback=self._source_of(file))
            self._opened = index, open_file(file.path, columns, self.bad)
        return self._opened[1]


def open_text(settings: TextSettings, *, skip_bad: bool = False) -> Text:
    """Open an input text: find its files or load its dataset. Raises as `open_input`."""
    return open_input(settings, settings.columns, skip_bad=skip_bad)


def open_input(settings: InputSettings, columns: Columns, *, skip_bad: bool = False) -> Text:
    """Open an input whose records `columns` reads. Raises ValueError with what is missing and a fix.

    `skip_bad`: records that cannot be used are listed in the text's `bad`, instead of ending the work.
    """
    bad = BadRecords(skip_bad)
    if settings.dataset:
        from curriculum.text.dataset import DatasetText

        return DatasetText(
            settings.dataset,
            columns,
            data_files=settings.data_files,
            subset=settings.subset,
            split=settings.split,
            revision=settings.revision,
            streaming=settings.streaming,
            bad=bad,
        )
    if not settings.paths:
        raise ValueError("no input given: set input.paths to files, folders or globs, or input.dataset to a name")
    return FileText(settings.paths, columns, bad)


def source_origins(config: Mapping[str, Any], inputs: Mapping[str, str]) -> Callable[[str], str]:
    """Return a function from a source to where its name came from, given a TOKENS' config and inputs."""
    settings = config["input"]
    if settings["source_column"] is not None:
        return lambda source: f"column {settings['source_column']}"
    if settings["dataset"]:
        return lambda source: "dataset name"
    text = {key.split("/", 2)[-1]: value for key, value in inputs.items() if key.startswith("text/")}
    files = {stem(key) for key, value in text.items() if SOURCE_MARK not in value and file_format(key) != ".txt"}
    folders = {value.partition(SOURCE_MARK)[2] for value in text.values() if SOURCE_MARK in value}
    folders |= {Path(key).parent.name for key in text if file_format(key) == ".txt"}

    def origin(source: str) -> str:
        names = [name for name, known in (("folder name", folders), ("file name", files)) if source in known]
        return " and ".join(names) or "folder name"

    return origin


def _has_columns(file: TextFile) -> bool:
    return file_format(file.path.name) != ".txt"


def _is_text(name: str) -> bool:
    """Return whether a file's name is UTF-8; Python stores other bytes as lone surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _no_documents(path: Path) -> str:
    return f"{path} contains no documents: remove it from the input or fill it"


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN_NAMES]) + (", ..." if len(names) > SHOWN_NAMES else "")
