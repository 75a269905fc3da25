"""Text from data, made safe to print: no character in it speaks to a terminal or breaks its line."""

from __future__ import annotations

import re

UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line separators, changes of the writing direction and lone surrogates."""


def printable(text: str) -> str:
    r"""Return text with unsafe characters as escapes, such as \x1b."""
    return UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def printable_lines(text: str) -> str:
    """Return text with the unsafe characters of its lines as escapes; line feeds stay."""
    return "\n".join(map(printable, text.split("\n")))
