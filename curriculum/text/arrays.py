"""Elements of a file that is one JSON array, read in bounded memory."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from curriculum.text.document import BadRecordError, Columns, Document, json_object, not_json

SPACE = re.compile(r"[ \t\n\r]*")
LONGEST_WORD = 10
"""Characters within which the end of a cut text can make a number, an escape or a word such as -Infinity invalid."""


@dataclass(frozen=True)
class Unreadable:
    """An element that is valid JSON, but that Python cannot hold."""

    reason: str


class ArrayElements:
    """Iterates over (place, element): the offset of the block that completes it, and the parsed value.

    Raises ValueError with the file and the element if the array is not valid JSON, or an element has twice as many
    bytes as it may have: what follows cannot be read.
    """

    def __init__(self, path: Path, blocks: Iterator[tuple[int, bytes]], columns: Columns) -> None:
        self._path, self._blocks, self._columns = path, blocks, columns
        self._json = json.JSONDecoder(object_pairs_hook=json_object)
        self._skipping = json.JSONDecoder(parse_int=lambda digits: None)
        self._utf8 = codecs.getincrementaldecoder("utf-8")("surrogateescape")  # a bad byte spoils only its element
        self._text, self._at = "", 0
        """The text that is held, and the position of the next unread character."""
        self._place = self._number = 0

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        if self._next() == "\ufeff":
            self._at += 1
        if self._next() != "[":
            raise self._error("is not a JSON array")
        self._at += 1
        if self._next() != "]":
            while True:
                self._number += 1
                yield self._place, self._value()
                end = self._next()
                if end == "]":
                    break
                if end != ",":
                    reason = f"{end!r} follows instead of a comma" if end else "the file ends there: it is truncated"
                    raise self._error(reason)
                self._at += 1
        self._at += 1
        if self._next():
            raise self._error("something follows the end of the array")

    def _next(self) -> str:
        """Return the next character that is not space, "" at the end of the file."""
        while True:
            space = SPACE.match(self._text, self._at)
            assert space is not None, "matches the empty text"
            self._at = space.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _value(self) -> Any:
        while True:
            try:
                self._next()
                value, end = self._json.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated") or error.pos >= len(self._text) - LONGEST_WORD
                if cut:
                    self._columns.check_size(len(self._text) - self._at, f"{self._path}, element {self._number}")
                    if self._more():
                        continue
                raise self._error(f"invalid JSON ({error.msg})") from error
            except ValueError as error:  # a number of too many digits
                _, end = self._skipping.raw_decode(self._text, self._at)
                value = Unreadable(not_json(error))
            except RecursionError as error:
                raise self._error(not_json(error)) from error
            if end == len(self._text) and self._more():  # a number may continue
                continue
            if end - self._at > self._columns.largest:
                value = Unreadable(self._columns.too_large)
            self._at = end
            return value

    def _more(self) -> bool:
        """Read at least as much as is held, so that a long element is parsed a few times only; False at the end."""
        pieces = [self._text[self._at :]]
        wanted, got = len(pieces[0]), 0
        for place, block in self._blocks:
            self._place = place
            pieces.append(self._utf8.decode(block))
            got += len(pieces[-1])
            if got > wanted:
                break
        else:
            pieces.append(self._utf8.decode(b"", final=True))
            got += len(pieces[-1])
        self._text, self._at = "".join(pieces), 0
        return got > 0

    def _error(self, reason: str) -> ValueError:
        return ValueError(
            f"{self._path}, element {self._number}: {reason}: the file must be one JSON array of objects, or hold one "
            "object per line"
        )


def parse_element(record: Any, _first: bool, columns: Columns, place: object) -> Document:
    """Return the document in an element of an array. Raises BadRecordError."""
    if isinstance(record, Unreadable):
        raise BadRecordError(place, record.reason)
    if not isinstance(record, dict):
        raise BadRecordError(place, f"contains a {type(record).__name__}, but every element must be a JSON object")
    document = columns.document(record, place)
    for value in document:
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise BadRecordError(
                place, "contains invalid UTF-8 or a lone surrogate: convert the file to UTF-8, or remove the record"
            ) from error
    return document
