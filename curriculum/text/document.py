"""A document of the text: taken from a record, or from a line of JSON, with every mistake named."""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass
from typing import Any, NamedTuple


class Document(NamedTuple):
    """One text and the name of the source it belongs to."""

    text: str
    source: str


@dataclass(frozen=True)
class Columns:
    """Names of the text and the source column; without a source column every document's source is `fallback`.

    `place` names a record in messages, when it is printed.
    """

    text: str
    source: str | None
    fallback: str

    def document(self, record: dict[str, Any], place: object) -> Document:
        """Take text and source from a record. Raises ValueError, naming `place`, when one is not usable text."""
        text = self._field(record, self.text, "text_column", place)
        if self.source is None:
            return Document(text, self.fallback)
        source = self._field(record, self.source, "source_column", place)
        if not source:
            raise ValueError(f"{place}: column {self.source!r} is empty: name the source, or set source_column=null")
        return Document(text, source)

    def check(self, names: list[str], place: object) -> None:
        """Raise ValueError when a column is not among `names`."""
        for name, key in ((self.text, "text_column"), (self.source, "source_column")):
            if name is not None and name not in names:
                raise ValueError(_missing(place, name, key, names))

    def _field(self, record: dict[str, Any], name: str, key: str, place: object) -> str:
        if name not in record:
            raise ValueError(_missing(place, name, key, list(record)))
        value = record[name]
        if not isinstance(value, str):
            found = "null" if value is None else type(value).__name__
            raise ValueError(f"{place}: column {name!r} holds {found}, not text: remove or mend that record")
        return value


def parse_line(line: bytes, first: bool, columns: Columns, place: object) -> Document | None:
    """Return the document of a line of JSON, None for a blank line; the first line of a file may begin with a BOM."""
    if first:
        line = line.removeprefix(codecs.BOM_UTF8)
    if not line or line.isspace():
        return None
    try:
        record = json.loads(decode(line, place))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{place}: broken JSON ({error}): every line must be one JSON object") from error
    if not isinstance(record, dict):
        raise ValueError(f"{place}: holds a {type(record).__name__}, every line must be one JSON object")
    document = columns.document(record, place)
    if b"\\u" in line:  # only an escape can smuggle half a surrogate pair past the UTF-8 check
        for value in document:
            _check_surrogates(value, place)
    return document


def decode(raw: bytes, place: object) -> str:
    """Return bytes as text. Raises ValueError, naming `place`, when they are not UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{place}: invalid UTF-8 at byte {error.start} ({error.reason}): convert the file to UTF-8"
        ) from error


def _check_surrogates(text: str, place: object) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{place}: holds half a surrogate pair ({error.reason}): mend or remove it") from error


def _missing(place: object, name: str, key: str, names: list[str]) -> str:
    mend = f"set input.{key} to one of them"
    if key == "source_column":
        mend += ", or to null to take one source a file"
    return f"{place}: column {name!r} is missing; there are {', '.join(sorted(map(str, names))) or 'none'}: {mend}"
