"""Text from a Hugging Face dataset: a name on the Hub or a local folder, map-style or streaming."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from curriculum.text.document import Columns, Document

BATCH_ROWS = 256
WHOLE_CHUNK = 1 << 62
"""Assumed bytes of a stream's shard, whose size is unknown: each becomes one chunk."""


class DatasetText:
    """Documents of one split of a dataset. Opening it loads the dataset (over the network only if it is not local)."""

    def __init__(
        self,
        name: str,
        *,
        subset: str | None,
        split: str,
        revision: str | None,
        streaming: bool,
        text_column: str,
        source_column: str | None,
    ) -> None:
        self.name = name
        self.notes: list[str] = []
        self._settings = {"subset": subset or "", "split": split, "revision": revision or ""}
        self._streaming = streaming
        self._local = Path(name).expanduser() if os.path.isdir(os.path.expanduser(name)) else None
        self._columns = Columns(text_column, source_column, self._local.resolve().name if self._local else name)
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
                loaded = datasets.load_from_disk(str(self._local))
                loaded = loaded[split] if isinstance(loaded, datasets.DatasetDict) else loaded
                return loaded.to_iterable_dataset() if self._streaming else loaded
            place = str(self._local) if self._local else self.name
            return datasets.load_dataset(place, subset, split=split, revision=revision, streaming=self._streaming)
        except (ValueError, KeyError, OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
            raise ValueError(
                f"input.dataset={self.name!r} (subset {subset!r}, split {split!r}, revision {revision!r}) cannot be "
                f"loaded ({type(error).__name__}: {error}): check the name, the split and the network"
            ) from error

    @property
    def fraction_read(self) -> float | None:
        """Share of the rows read so far, or None for a stream."""
        return None if self._streaming else self._row / max(len(self._data), 1)

    def identity(self) -> dict[str, str]:
        """Return values that change with the text: name, subset, split, revision, and the data's fingerprint.

        A stream has no fingerprint: a local folder is then identified by its files' sizes and times, a dataset on the
        Hub only by its revision (set one to pin it).
        """
        parts = {"dataset": self.name, **self._settings}
        if not self._streaming:
            parts["fingerprint"] = str(self._data._fingerprint)
        elif self._local:
            for path in sorted(p for p in self._local.rglob("*") if p.is_file()):
                status = path.stat()
                name = path.relative_to(self._local).as_posix()
                parts[f"file/{name}"] = f"bytes={status.st_size} mtime_ns={status.st_mtime_ns}"
        return {f"text/{key}": value for key, value in parts.items()}

    def check(self) -> None:
        """Read the first row. Raises ValueError if there is none or it is not text."""
        if next(self.documents(), None) is None:
            raise ValueError(
                f"dataset {self.name} has no rows in split {self._settings['split']!r}: choose another input.split"
            )

    def documents(self, start: int = 0, stop: int | None = None) -> Iterator[Document]:
        """Yield the documents of a range of rows, or of a stream's shards, in the dataset's order.

        Raises ValueError with the row and a fix.
        """
        wanted = [name for name in dict.fromkeys((self._columns.text, self._columns.source)) if name is not None]
        data = self._data.select_columns(wanted) if self._data.column_names is not None else self._data
        stop = self.places if stop is None else stop
        if not self._streaming:
            self._row = start
            yield from self._read(data.select(range(start, stop)), wanted, f"dataset {self.name}, row")
            return
        for shard in range(start, stop):
            self._row = 0
            place = f"dataset {self.name}, shard {shard}, row" if self.places > 1 else f"dataset {self.name}, row"
            yield from self._read(data.shard(num_shards=self.places, index=shard), wanted, place)

    def _read(self, data: Any, wanted: list[str], place: str) -> Iterator[Document]:
        for batch in data.iter(batch_size=BATCH_ROWS):
            names = [name for name in wanted if name in batch] or list(batch)
            for values in zip(*(batch[name] for name in names), strict=True):
                self._row += 1
                record = dict(zip(names, values, strict=True))
                yield self._columns.document(record, f"{place} {self._row}")


def _was_saved_to_disk(folder: Path) -> bool:
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()
