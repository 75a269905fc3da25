"""Scores by source: names from the data in the table and the figure."""

import io
import xml.etree.ElementTree as ET

import numpy as np
from rich.console import Console

from curriculum.scores.scores import Scores
from curriculum.scores.table import draw, show
from tests.scores import write_scores

NAMES = ["[/red] x", "web [en]", ":smile:", "\x1b[2Jgone", "a\nb", "$x_1$", "$\\frac$", "n" * 300]


def test_source_names_are_shown_and_drawn_as_they_are(tmp_path, tokens_of):
    tokens = tokens_of(tmp_path / "tokens", dict.fromkeys(NAMES, 12))
    rng = np.random.default_rng(0)
    losses = {name: rng.uniform(2, 4, len(tokens)).astype(np.float32) for name in ("weak", "strong")}
    scores = Scores.open(write_scores(tmp_path / "scores", [tokens], lambda _: losses))
    console = Console(file=io.StringIO(), width=500)
    show(scores, tokens, console)
    printed = console.file.getvalue()
    assert "\x1b" not in printed
    for name in ("[/red] x", "web [en]", ":smile:", "\\x1b[2Jgone", "a\\nb", "$x_1$", "n" * 300):
        assert name in printed
    draw(scores, tokens, tmp_path / "a.svg")
    texts = {
        element.text for element in ET.parse(tmp_path / "a.svg").getroot().iter("{http://www.w3.org/2000/svg}text")
    }
    assert {"[/red] x", "\\x1b[2Jgone", "a\\nb", "$x_1$", "$\\frac$", "n" * 17 + "\u2026"} <= texts
    draw(scores, tokens, tmp_path / "a.png")


def test_the_table_fits_a_narrow_terminal_without_broken_headings(tmp_path, tokens_of):
    tokens = tokens_of(tmp_path / "tokens", {"encyclopedia": 12, "package_descriptions": 12})
    rng = np.random.default_rng(0)
    losses = {name: rng.uniform(2, 4, len(tokens)).astype(np.float32) for name in ("weak", "strong")}
    scores = Scores.open(write_scores(tmp_path / "scores", [tokens], lambda _: losses))
    console = Console(file=io.StringIO(), width=80)
    show(scores, tokens, console)
    printed = console.file.getvalue()
    assert max(map(len, printed.splitlines())) <= 80
    for word in ("deviation", "length", "samples", "strong"):
        assert f" {word} " in printed
