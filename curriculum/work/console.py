"""A console that prints text from data as it is: no markup, no emoji codes, no terminal sequences."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from curriculum.work.printable import printable, printable_lines

PIPE_WIDTH = 160
"""Columns of a pipe or a file: wide enough for the tables and for paths."""


class PlainConsole(Console):
    """A rich console whose strings, those in tables included, are shown literally; use `Text` for styles."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, "highlight": False, **options})
        if options.get("width") is None and not self.is_terminal:
            self.width = PIPE_WIDTH

    def render_str(self, text: str, **options: Any) -> Text:
        """Return a string as text, unsafe characters escaped line by line."""
        return super().render_str(printable_lines(text), **options)


def cell(text: str, style: str = "") -> Text:
    """Return a name as a cell of a table, shown literally on any console."""
    return Text(printable(text), style=style)


def say(console: Console, line: str) -> None:
    """Print a line literally: without markup, emoji codes, highlighting or wrapping."""
    console.print(printable(line), markup=False, emoji=False, highlight=False, soft_wrap=True)
