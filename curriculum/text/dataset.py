"""Text from a Hugging Face dataset: a name on the Hub or a local folder, map-style or streaming."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from curriculum.text.document import (
    BadRecordError,
    BadRecords,
    Columns,
    Document,
    column_of,
    not_utf8,
)

BATCH_ROWS = 256
PICKLES = ("pandas",)
"""Formats of `load_dataset` whose files are pickles: reading one runs what is in it (datasets before 5.2 does)."""
FORMATS = ("arrow", "csv", "json", "parquet", "text", "webdataset", "xml", *PICKLES)
"""Names that `load_dataset` takes for a format; without files it would read the working directory."""
SPLIT_NAME = re.compile(r"(?:^|\+)\s*(\w+)")
WHOLE_CHUNK = 1 << 62
"""Assumed bytes of a stream's shard, whose size is unknown: each becomes one chunk."""


class DatasetText:
    """Documents of one split of a dataset. Opening it loads the dataset (over the network only if it is not local)."""

    def __init__(
        self,
        name: str,
        columns: Columns,
        *,
        data_files: list[str],
        subset: str | None,
        split: str,
        revision: str | None,
        streaming: bool,
        bad: BadRecords | None = None,
    ) -> None:
        self.name = name
        self.notes: list[str] = []
        self.bad = bad or BadRecords()
        self._settings = {"subset": subset or "", "split": split, "revision": revision or ""}
        self._data_files = data_files
        self._streaming = streaming
        local = os.path.isdir(os.path.expanduser(name)) and not (name in FORMATS and data_files)
        self._local = Path(os.path.expanduser(name)) if local else None
        if name in PICKLES and not local:
            raise ValueError(
                f"input.dataset={name} reads pickles, which can hold code that runs: convert them to Parquet or JSON"
            )
        self._columns = replace(columns, fallback=self._local.resolve().name if self._local else name)
        self._data = self._load()
        self.places = int(self._data.num_shards if streaming else len(self._data))
        self.place_bytes = WHOLE_CHUNK if streaming else max(1, int(self._data.data.nbytes) // max(1, self.places))
        self.spans: list[tuple[str, int, int]] = []
        self._row = 0
        if self._data.column_names is not None:  # a stream may not know its columns until its first row
            self._columns.check(list(self._data.column_names), f"dataset {name}")

    def _load(self) -> Any:
        import datasets

        subset, split, revision = (self._settings[key] or None for key in ("subset", "split", "revision"))
        try:
            if self._local and _was_saved_to_disk(self._local):
                ignored = {"subset": subset, "revision": revision, "data_files": self._data_files}
                if given := [f"input.{key}={value!r}" for key, value in ignored.items() if value]:
                    raise ValueError(f"{', '.join(given)} does not apply to a saved dataset: remove it")
                loaded = _part(datasets.load_from_disk(str(self._local)), self._settings["split"])
                return loaded.to_iterable_dataset() if self._streaming else loaded
            if self._local and revision:
                raise ValueError(f"input.revision={revision!r} does not apply to a local folder: remove it")
            if self.name in FORMATS and not (self._local or self._data_files):
                raise ValueError("it is a format, not a dataset: name its files with input.data_files")
            # A folder with a format's name would be taken for the format.
            place = os.path.join(os.curdir, self._local) if self._local else self.name
            files = [os.path.expanduser(path) for path in self._data_files] or None
            return datasets.load_dataset(
                place, subset, split=split, revision=revision, streaming=self._streaming, data_files=files
            )
        except (
            *(ValueError, KeyError, OSError, RuntimeError, AssertionError, TypeError),
            datasets.exceptions.DatasetsError,
        ) as error:
            raise ValueError(
                f"input.dataset={self.name!r} (subset {subset!r}, split {split!r}, revision {revision!r}, data_files "
                f"{self._data_files}) cannot be loaded ({type(error).__name__}: {error}): check the name, the split, "
                "the files and the network"
            ) from error

    @property
    def fraction_read(self) -> float | None:
        """Share of the rows read so far, or None for a stream."""
        return None if self._streaming else self._row / max(len(self._data), 1)

    def identity(self) -> dict[str, str]:
        """Return values that change with the text: name, subset, split, revision, and the data's fingerprint.

        A stream has no fingerprint: local files are then identified by their sizes and times, a dataset on the Hub only
        by its revision (set one to pin it).
        """
        parts = {"dataset": self.name, **self._settings}
        if not self._streaming:
            parts["fingerprint"] = str(self._data._fingerprint)
        else:
            for name, path in self._local_files():
                status = path.stat()
                parts[f"file/{name}"] = f"bytes={status.st_size} mtime_ns={status.st_mtime_ns}"
        return {f"text/{key}": value for key, value in parts.items()}

    def _local_files(self) -> Iterator[tuple[str, Path]]:
        """Yield (name, path) of the local files that a stream may read."""
        if self._local:
            for path in sorted(path for path in self._local.rglob("*") if path.is_file()):
                yield path.relative_to(self._local).as_posix(), path
        for number, pattern in enumerate(self._data_files):
            for name in sorted(glob.glob(os.path.expanduser(pattern), recursive=True)):
                if os.path.isfile(name):
                    yield f"{number}/{os.path.basename(name)}", Path(name)

    def check(self) -> None:
        """Read the first usable row. Raises ValueError if there is none."""
        if next(self.documents(), None) is None:
            skipped = self.bad.skipped
            found = f"all its {len(skipped)} rows are bad; the first is {': '.join(skipped[0])}" if skipped else None
            raise ValueError(
                f"dataset {self.name}, split {self._settings['split']!r}: "
                f"{found or 'there are no rows: choose another input.split'}"
            )

    def documents(self, start: int = 0, stop: int | None = None) -> Iterator[Document]:
        """Yield the documents of a range of rows, or of a stream's shards, in the dataset's order.

        Raises ValueError with the row and a fix.
        """
        wanted, data = self._columns.wanted, self._data
        if data.column_names is not None:
            wanted = list(dict.fromkeys(column_of(name, data.column_names) or name for name in wanted))
            data = data.select_columns(wanted)
        stop = self.places if stop is None else stop
        self.bad.skipped.clear()
        if not self._streaming:
            self._row = start
            part = data.select(range(start, stop))
            batches = (_batch(part, first) for first in range(0, stop - start, BATCH_ROWS))
            yield from self._read((row for batch in batches for row in batch), f"dataset {self.name}, row")
            return
        for shard in range(start, stop):
            self._row = 0
            place = f"dataset {self.name}, shard {shard}, row" if self.places > 1 else f"dataset {self.name}, row"
            part = data.shard(num_shards=self.places, index=shard)
            try:
                yield from self._read(_stream(part, wanted), place)
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{place} {self._row + 1} or one of the {BATCH_ROWS - 1} after it: {not_utf8(error)}"
                ) from error

    def _read(self, rows: Iterator[dict[str, Any] | UnicodeDecodeError], place: str) -> Iterator[Document]:
        for record in rows:
            self._row += 1
            try:
                if isinstance(record, UnicodeDecodeError):
                    raise BadRecordError(f"{place} {self._row}", not_utf8(record))
                document = self._columns.document(record, f"{place} {self._row}")
            except BadRecordError as error:
                self.bad.add(error)
                continue
            yield document


def _batch(data: Any, first: int) -> list[dict[str, Any] | UnicodeDecodeError]:
    """Return up to BATCH_ROWS rows; one that is not UTF-8 as its error."""
    last = min(first + BATCH_ROWS, len(data))
    try:
        return list(_records(data[first:last]))
    except UnicodeDecodeError:
        rows: list[dict[str, Any] | UnicodeDecodeError] = []
        for row in range(first, last):
            try:
                rows.append(data[row])
            except UnicodeDecodeError as error:
                rows.append(error)
        return rows


def _stream(data: Any, wanted: list[str]) -> Iterator[dict[str, Any]]:
    for batch in data.iter(batch_size=BATCH_ROWS):
        found = [column_of(name, list(batch)) for name in wanted]
        yield from _records({name: batch[name] for name in dict.fromkeys(found) if name is not None} or batch)


def _records(batch: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    names = list(batch)
    for values in zip(*batch.values(), strict=True):
        yield dict(zip(names, values, strict=True))


def _part(saved: Any, split: str) -> Any:
    """Return the rows of a saved dataset that a split names, as `load_dataset` reads it: train[:50%], train+test.

    A dataset saved without a split's name is called "train". Raises ValueError or AssertionError for an unknown split.
    """
    import datasets

    if isinstance(saved, datasets.DatasetDict):
        splits = {str(name): data for name, data in saved.items()}
    else:
        name = str(saved.split or "train")
        splits = {name: saved}
        if len(whole := set(SPLIT_NAME.findall(name))) == 1:  # saved from a part, such as train[:1%]
            splits.setdefault(whole.pop(), saved)
    if split in splits:
        return splits[split]
    try:
        parts = datasets.ReadInstruction.from_spec(split).to_absolute({name: len(d) for name, d in splits.items()})
    except (ValueError, AssertionError) as error:
        raise ValueError(f"{error}; the saved splits are {', '.join(splits)}: set input.split") from error
    found = [splits[part.splitname].select(range(part.from_ or 0, _end(part, splits))) for part in parts]
    return found[0] if len(found) == 1 else datasets.concatenate_datasets(found)


def _end(part: Any, splits: dict[str, Any]) -> int:
    return len(splits[part.splitname]) if part.to is None else int(part.to)


def _was_saved_to_disk(folder: Path) -> bool:
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()
