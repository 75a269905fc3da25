"""Text from data, made safe to print and to store: no character in it speaks to a terminal, a line or a spreadsheet."""

from __future__ import annotations

import re
from typing import Any

CONTROLS = r"\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
UNSAFE = re.compile(f"[{CONTROLS}]")
"""Control characters, line separators, changes of the writing direction and lone surrogates."""
STYLES = r"\x1b\[[0-9;?]*[ABCDGHJKhlm]"
"""Sequences for colours, the cursor and erasing, with which a terminal is written to."""
UNSAFE_ON_STREAM = re.compile(f"({STYLES})|(?![\n\r\t])[{CONTROLS}]")
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Characters with which a spreadsheet begins a formula."""


def printable(text: str) -> str:
    r"""Return text with unsafe characters as escapes, such as \x1b."""
    return UNSAFE.sub(_escaped, text)


def printable_lines(text: str) -> str:
    """Return text with the unsafe characters of its lines as escapes; line feeds stay."""
    return "\n".join(map(printable, text.split("\n")))


def printable_output(text: str, *, styled: bool) -> str:
    """Return the output of a program as it may reach a stream; line ends and tabs stay, if `styled` also STYLES."""
    return UNSAFE_ON_STREAM.sub(lambda found: found[0] if styled and found[1] else _escaped(found), text)


def csv_cell(value: Any) -> Any:
    """Return a value for a cell of a CSV file: a text that a spreadsheet would compute starts with an apostrophe.

    Numbers stay numbers, and unsafe characters become escapes.
    """
    if not isinstance(value, str):
        return value
    shown = printable(value)
    return f"'{shown}" if value.startswith(FORMULA) else shown


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
