"""Print the contents of TOKENS by source and slice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from curriculum.artifact.manifest import open_manifest
from curriculum.text.text import source_origins
from curriculum.tokens.tokens import KIND, SLICES
from curriculum.work.console import cell, say

SKIPPED = "skipped.jsonl"
"""File of TOKENS that lists the skipped records: place and reason, one per line."""


def show(folder: Path, console: Console) -> None:
    """Print the contents of a TOKENS folder: a table by source and slice, then what was left out."""
    manifest = open_manifest(folder, KIND)
    facts = manifest.facts
    origin = source_origins(manifest.config, manifest.inputs) if "input" in manifest.config else None
    console.print(_table(facts, origin))
    bits = f"{facts['vocab_size']:,} tokens, stored as {facts['dtype']}"
    say(console, f"vocabulary: {bits}; end of text: {facts['end_of_text_token']!r}; seq_len: {facts['seq_len']:,}")
    for key, reason in (("blank_documents", "blank"), ("documents_without_tokens", "without tokens")):
        if facts[key]:
            by_source = ", ".join(f"{name} {count:,}" for name, count in sorted(facts[key].items()))
            say(console, f"documents left out, {reason}: {sum(facts[key].values()):,} ({by_source})")
    if skipped := facts.get("skipped_records"):
        by_reason = "; ".join(f"{count:,}: {reason}" for reason, count in skipped["by_reason"].items())
        share = skipped["count"] / (skipped["count"] + facts["documents_read"])
        places = f" ({share:.2%} of all); each is listed in {folder / SKIPPED}: {by_reason}" if by_reason else ""
        say(console, f"{'warning: ' if by_reason else ''}bad records skipped: {skipped['count']:,}{places}")


def _table(facts: Mapping[str, Any], origin: Callable[[str], str] | None) -> Table:
    """Return a row per source and slice; `origin` says where a source's name came from."""
    table = Table()
    for name in ("source", "named by", "slice") if origin is not None else ("source", "slice"):
        table.add_column(name, overflow="fold")
    for name in ("documents", "tokens", "samples"):
        table.add_column(name, justify="right")
    slices = facts["slices"]
    keys = ("documents", "tokens", "samples")
    for index, source in enumerate(row["name"] for row in slices[SLICES[0]]["sources"]):
        for slice_name in SLICES:
            row = slices[slice_name]["sources"][index]
            first = slice_name == SLICES[0]
            names = [source if first else ""] + ([origin(source) if first else ""] if origin is not None else [])
            counts = (f"{row[key]:,}" for key in keys)
            table.add_row(*map(cell, names), slice_name, *counts, end_section=slice_name == SLICES[-1])
    for slice_name in SLICES:
        names = ["all" if slice_name == SLICES[0] else "", *([""] if origin is not None else [])]
        table.add_row(*names, slice_name, *(f"{slices[slice_name][key]:,}" for key in keys))
    return table
