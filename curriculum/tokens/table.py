"""Print the contents of TOKENS by source and slice."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from curriculum.artifact.manifest import open_manifest
from curriculum.tokens.tokens import KIND, SLICES


def show(folder: Path, console: Console) -> None:
    """Print the contents of a TOKENS folder: a table by source and slice, then what was left out."""
    facts = open_manifest(folder, KIND).facts
    console.print(_table(facts))
    bits = f"{facts['vocab_size']:,} tokens, stored as {facts['dtype']}"
    say(console, f"vocabulary: {bits}; end of text: {facts['end_of_text_token']!r}; seq_len: {facts['seq_len']:,}")
    for key, reason in (("blank_documents", "blank"), ("documents_without_tokens", "without tokens")):
        if facts[key]:
            by_source = ", ".join(f"{name} {count:,}" for name, count in sorted(facts[key].items()))
            say(console, f"documents left out, {reason}: {sum(facts[key].values()):,} ({by_source})")


def say(console: Console, line: str) -> None:
    """Print a line without markup, highlighting or wrapping."""
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _table(facts: Mapping[str, Any]) -> Table:
    table = Table()
    for name in ("source", "slice"):
        table.add_column(name)
    for name in ("documents", "tokens", "samples"):
        table.add_column(name, justify="right")
    slices = facts["slices"]
    keys = ("documents", "tokens", "samples")
    for index, source in enumerate(row["name"] for row in slices[SLICES[0]]["sources"]):
        for slice_name in SLICES:
            row = slices[slice_name]["sources"][index]
            label = source if slice_name == SLICES[0] else ""
            table.add_row(label, slice_name, *(f"{row[key]:,}" for key in keys), end_section=slice_name == SLICES[-1])
    for slice_name in SLICES:
        label = "all" if slice_name == SLICES[0] else ""
        table.add_row(label, slice_name, *(f"{slices[slice_name][key]:,}" for key in keys))
    return table
