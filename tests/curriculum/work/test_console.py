"""Text from data is printed as it is, on any console, without speaking to the terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from curriculum.work.console import PIPE_WIDTH, PlainConsole, cell, say
from curriculum.work.printable import csv_cell, printable, printable_lines
from curriculum.work.progress import SampleProgress

NAMES = ["[/red] x", "web [en]", "[bold]", ":smile:", "a\\", "[link=file:///x]y[/link]", "[", "https://x.y [1]"]


@pytest.mark.parametrize("name", NAMES)
def test_markup_is_printed_literally(name: str) -> None:
    for console in (PlainConsole(file=io.StringIO(), width=80), Console(file=io.StringIO(), width=80)):
        table = Table(title=cell(name))
        table.add_column(cell(name))
        table.add_row(cell(name))
        console.print(table)
        say(console, f"source {name}: 3")
        assert console.file.getvalue().count(name) == 4
    plain = PlainConsole(file=io.StringIO(), width=80)
    table = Table(name, title=name, caption=name)
    table.add_row(name)
    plain.print(table)
    plain.print(name)
    assert plain.file.getvalue().count(name) == 5


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("\x1b[2Jweb", "\\x1b[2Jweb"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("web\nsource", "web\\nsource"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202eevil\u2066", "\\u202eevil\\u2066"),
        ("\ud800", "\\ud800"),
        ("\u4e2d\u6587 caf\u00e9 \U0001f600", "\u4e2d\u6587 caf\u00e9 \U0001f600"),
    ],
)
def test_control_characters_are_escaped(name: str, shown: str) -> None:
    assert printable(name) == shown
    console = Console(file=io.StringIO(), width=80, force_terminal=True)
    say(console, name)
    console.print(cell(name))
    assert console.file.getvalue() == f"{shown}\n{shown}\n"
    assert printable_lines(f"a\n{name}").startswith("a\n")


def test_progress_shows_its_label_literally() -> None:
    for terminal in (False, True):
        console = Console(file=io.StringIO(), width=200, force_terminal=terminal)
        with SampleProgress(console, "score under [/red] \x1b[2J", 2) as progress:
            progress.add(2, 20)
        assert "score under [/red] \\x1b[2J" in console.file.getvalue()


@pytest.mark.parametrize("value", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx"])
def test_a_text_in_a_csv_is_no_formula(value: str) -> None:
    assert csv_cell(value) == "'" + printable(value)


@pytest.mark.parametrize("value", ["web", "a=b", "", -1.5, -2, None, True])
def test_other_values_in_a_csv_stay_as_they_are(value: object) -> None:
    assert csv_cell(value) == value
    assert type(csv_cell(value)) is type(value)


def test_a_pipe_is_as_wide_as_the_tables_and_a_terminal_as_wide_as_it_is(monkeypatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert PlainConsole(file=io.StringIO()).width == PIPE_WIDTH
    assert PlainConsole(file=io.StringIO(), width=80).width == 80
    assert PlainConsole(file=io.StringIO(), force_terminal=True).width < PIPE_WIDTH
    monkeypatch.setenv("COLUMNS", "100")  # the width of the terminal that the pipe was typed in
    assert PlainConsole(file=io.StringIO()).width == PIPE_WIDTH
