"""Parse documents from records or JSON lines; errors say where and what is wrong."""

from __future__ import annotations

import codecs
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

ON_BAD_RECORD = ("fail", "skip")
LARGEST_DOCUMENT = 1 << 28
"""Default of `input.max_document_bytes`."""


class Document(NamedTuple):
    """A text and the name of its source."""

    text: str
    source: str


class BadRecordError(ValueError):
    """A record that cannot be used; its message is "PLACE: REASON"."""

    def __init__(self, place: object, reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.place, self.reason = str(place), reason


@dataclass
class BadRecords:
    """What happens to records that cannot be used: they end the work, or are skipped and listed."""

    skip: bool = False
    skipped: list[tuple[str, str]] = field(default_factory=list)
    """(place, reason) of every record skipped since the list was last cleared."""

    def add(self, error: BadRecordError) -> None:
        """List a record, or raise `error` if records must not be skipped."""
        if not self.skip:
            raise error
        self.skipped.append((error.place, error.reason))


class JsonObject(dict[str, Any]):
    """A JSON object with keys that occur more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.repeated = {key for key, count in Counter(key for key, _ in pairs).items() if count > 1}


def json_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object's pairs as a dict, as a JsonObject if a key is repeated (an `object_pairs_hook`)."""
    record = dict(pairs)
    return record if len(record) == len(pairs) else JsonObject(pairs)


@dataclass(frozen=True)
class Columns:
    """Names of the text and source columns; without a source column every document's source is `fallback`.

    A name with dots that is not a column itself is a path into nested objects: `meta.set`. In the methods, `place`
    locates a record in error messages, by its `str()`.
    """

    text: str
    source: str | None
    fallback: str
    largest: int = LARGEST_DOCUMENT
    """Most bytes of a record, uncompressed."""

    @property
    def wanted(self) -> list[str]:
        """Names of the columns to read, without repetition."""
        return [name for name in dict.fromkeys((self.text, self.source)) if name is not None]

    @property
    def texts(self) -> list[str]:
        """Names of the columns that must hold text."""
        return self.wanted

    def whole(self, text: str, source: str, place: object) -> Document:
        """Return the document of a file that is one. Raises BadRecordError where records have columns."""
        return Document(text, source)

    def document(self, record: dict[str, Any], place: object) -> Document:
        """Return a record's text and source. Raises BadRecordError if one of them is not usable text."""
        text = self._field(record, self.text, place)
        if len(text) * (1 if text.isascii() else 4) > self.largest:
            self.check_size(len(text.encode("utf-8", "surrogatepass")), place)
        return Document(text, self.source_of(record, place))

    def source_of(self, record: dict[str, Any], place: object) -> str:
        """Return a record's source. Raises BadRecordError if it is not usable text."""
        if self.source is None:
            return self.fallback
        source = self._field(record, self.source, place)
        if not source:
            raise BadRecordError(place, f"column {self.source!r} is empty: name the source, or set source_column=null")
        return source

    def check_size(self, size: int, place: object) -> None:
        """Raise BadRecordError for a record of more than `largest` bytes. `size` may be what is known of it so far."""
        if size > self.largest:
            raise BadRecordError(place, self.too_large)

    @property
    def too_large(self) -> str:
        """The reason against a record of more than `largest` bytes."""
        return (
            f"has more than {self.largest:,} bytes: split the document, or raise input.max_document_bytes (memory "
            "grows with it)"
        )

    def check(self, names: list[str], place: object) -> None:
        """Raise ValueError if a column is not in `names`, or is there more than once."""
        for name in self.wanted:
            key = self.key_of(name)
            found = column_of(name, names)
            if found is None:
                raise ValueError(f"{place}: {_missing(name, key, names)}")
            if names.count(found) > 1:
                raise ValueError(f"{place}: {_repeated('column', found)}")

    def key_of(self, name: str) -> str:
        """Return the setting that names a column."""
        return "source_column" if name == self.source and name != self.text else "text_column"

    def value(self, record: dict[str, Any], name: str, place: object) -> Any:
        """Return a column or nested field of any type. Raises BadRecordError if it is missing or ambiguous."""
        try:
            return _value(record, name)
        except KeyError:
            raise BadRecordError(place, _missing(name, self.key_of(name), list(record))) from None
        except LookupError as error:
            raise BadRecordError(place, str(error)) from None

    def _field(self, record: dict[str, Any], name: str, place: object) -> str:
        value = self.value(record, name, place)
        if not isinstance(value, str):
            found = "null" if value is None else type(value).__name__
            raise BadRecordError(place, f"column {name!r} contains {found}, not text: fix or remove the record")
        return value


def column_of(name: str, names: list[str]) -> str | None:
    """Return the column of `names` that holds `name`: itself, or the outermost object of a path with dots."""
    if name in names:
        return name
    outer = name.partition(".")[0]
    return outer if outer != name and outer in names else None


def _value(record: dict[str, Any], name: str) -> Any:
    """Return a column or nested field. Raises KeyError if it is missing, LookupError with a reason if ambiguous."""
    if "." not in name:
        value = record[name]
        if isinstance(record, JsonObject) and name in record.repeated:
            raise LookupError(_repeated("key", name))
        return value
    outer = name.partition(".")[0]
    if name in record:
        if isinstance(record.get(outer), dict):
            raise LookupError(f"both a column {name!r} and a nested field of that name: rename one of them")
        if isinstance(record, JsonObject) and name in record.repeated:
            raise LookupError(_repeated("key", name))
        return record[name]
    value = record
    for part in name.split("."):
        if value is None:
            return None
        if not isinstance(value, dict):
            raise KeyError(name)
        value = _value(value, part)
    return value


def parse_line(line: bytes, first: bool, columns: Columns, place: object) -> Document | None:
    """Return the document in a line of JSON, None for a blank line; the first line of a file may start with a BOM.

    Raises BadRecordError.
    """
    if first:
        line = line.removeprefix(codecs.BOM_UTF8)
    if not line or line.isspace():
        return None
    try:
        record = json.loads(decode(line, place), object_pairs_hook=json_object)
    except BadRecordError:
        raise
    except (ValueError, RecursionError) as error:
        raise BadRecordError(place, f"{not_json(error)}: every line must be a JSON object") from error
    if not isinstance(record, dict):
        raise BadRecordError(place, f"contains a {type(record).__name__}, but every line must be a JSON object")
    document = columns.document(record, place)
    if b"\\u" in line:  # only escapes can produce lone surrogates in valid UTF-8
        _check_surrogates(document, place)
    return document


def not_json(error: Exception) -> str:
    """Return why `json` could not parse a text: an error of json.loads."""
    if isinstance(error, (json.JSONDecodeError, RecursionError)):
        return f"invalid JSON ({error})"
    return f"contains a number that cannot be read ({error})"  # more digits than Python converts


def decode(raw: bytes, place: object) -> str:
    """Decode UTF-8. Raises BadRecordError if it is invalid."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadRecordError(place, not_utf8(error)) from error


def not_utf8(error: UnicodeDecodeError) -> str:
    """Return why a text is not UTF-8."""
    return f"invalid UTF-8 at byte {error.start} ({error.reason}): convert the text to UTF-8"


def _check_surrogates(document: Document, place: object) -> None:
    """Raise BadRecordError if the text or the source cannot be encoded."""
    for value in document:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BadRecordError(
                place, f"contains a lone surrogate ({error.reason}): fix or remove the record"
            ) from error


def _repeated(what: str, name: str) -> str:
    return f"{what} {name!r} occurs more than once, so it is unclear which one is meant: rename or remove one"


def _missing(name: str, key: str, names: list[str]) -> str:
    fix = f"set input.{key} to one of them"
    if key == "source_column":
        fix += ", or to null for one source per file or folder"
    return f"column {name!r} is missing; columns are {', '.join(sorted(map(str, names))) or 'none'}: {fix}"
