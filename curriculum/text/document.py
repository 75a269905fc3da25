"""Parse documents from records or JSON lines; errors say where and what is wrong."""

from __future__ import annotations

import codecs
import json
from dataclasses import dataclass
from typing import Any, NamedTuple


class Document(NamedTuple):
    """A text and the name of its source."""

    text: str
    source: str


@dataclass(frozen=True)
class Columns:
    """Names of the text and source columns; without a source column every document's source is `fallback`.

    In the methods, `place` locates a record in error messages, by its `str()`.
    """

    text: str
    source: str | None
    fallback: str

    def document(self, record: dict[str, Any], place: object) -> Document:
        """Return a record's text and source. Raises ValueError, with `place`, if one of them is not usable text."""
        text = self._field(record, self.text, "text_column", place)
        if self.source is None:
            return Document(text, self.fallback)
        source = self._field(record, self.source, "source_column", place)
        if not source:
            raise ValueError(f"{place}: column {self.source!r} is empty: name the source, or set source_column=null")
        return Document(text, source)

    def check(self, names: list[str], place: object) -> None:
        """Raise ValueError if a column is not in `names`."""
        for name, key in ((self.text, "text_column"), (self.source, "source_column")):
            if name is not None and name not in names:
                raise ValueError(_missing(place, name, key, names))

    def _field(self, record: dict[str, Any], name: str, key: str, place: object) -> str:
        if name not in record:
            raise ValueError(_missing(place, name, key, list(record)))
        value = record[name]
        if not isinstance(value, str):
            found = "null" if value is None else type(value).__name__
            raise ValueError(f"{place}: column {name!r} contains {found}, not text: fix or remove the record")
        return value


def parse_line(line: bytes, first: bool, columns: Columns, place: object) -> Document | None:
    """Return the document in a line of JSON, None for a blank line; the first line of a file may start with a BOM."""
    if first:
        line = line.removeprefix(codecs.BOM_UTF8)
    if not line or line.isspace():
        return None
    try:
        record = json.loads(decode(line, place))
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{place}: invalid JSON ({error}): every line must be a JSON object") from error
    if not isinstance(record, dict):
        raise ValueError(f"{place}: contains a {type(record).__name__}, but every line must be a JSON object")
    document = columns.document(record, place)
    if b"\\u" in line:  # only escapes can produce lone surrogates in valid UTF-8
        for value in document:
            _check_surrogates(value, place)
    return document


def decode(raw: bytes, place: object) -> str:
    """Decode UTF-8. Raises ValueError, with `place`, if it is invalid."""
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
        raise ValueError(f"{place}: contains a lone surrogate ({error.reason}): fix or remove the record") from error


def _missing(place: object, name: str, key: str, names: list[str]) -> str:
    fix = f"set input.{key} to one of them"
    if key == "source_column":
        fix += ", or to null for one source per file"
    return f"{place}: column {name!r} is missing; columns are {', '.join(sorted(map(str, names))) or 'none'}: {fix}"
