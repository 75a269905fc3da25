"""`pdpc inspect`: provenance and integrity of any artifact; plan and steps of an order."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from curriculum.artifact.manifest import MANIFEST, kind_of, open_manifest, verify
from launch.inspect.settings import RUN, InspectSettings

MOST_SOURCES = 6
"""Most sources of a slice that are named, the largest ones."""
UNITS = {"tokens": "documents", "pairs": "pairs"}
"""What the slices of an artifact hold, by its kind."""
MOST_ROWS = 12
"""Most inputs, and most files, that are listed: TOKENS have one input per text file."""


def run(settings: InspectSettings) -> int:
    """Print an artifact; return 1 if a check of an order fails. Raises ArtifactError for a damaged artifact."""
    from curriculum.work.console import PlainConsole

    folder = Path(settings.folder)
    console = PlainConsole()
    if (folder / RUN).is_file() or kind_of(folder) == "order":
        from launch.inspect.order import inspect_order

        return inspect_order(settings, console)
    if settings.of_orders:
        key, value = next(iter(settings.of_orders.items()))
        raise ValueError(f"{key}={value} needs an ORDER or a RUN, but {folder} is a {kind_of(folder)}: leave it out")
    _show_manifest(folder, settings.verify, console)
    return 0


def _show_manifest(folder: Path, whole: bool, console: Any) -> None:
    """Print an artifact's manifest: its contents first, then what it was written from."""
    from rich.table import Table

    from curriculum.work.console import cell

    kind = kind_of(folder)
    manifest = open_manifest(folder, kind)
    if whole:
        verify(folder)
    table = Table(title=cell(f"{kind} {folder}"), show_header=False, title_justify="left")
    table.add_row("fingerprint", manifest.fingerprint)
    table.add_row("created", f"{manifest.created_at} by PDPC {manifest.code_version}")
    facts = dict(manifest.facts)
    if kind in UNITS:
        facts.pop("blocks", None)
        for name, held in facts.pop("slices", {}).items():
            table.add_row(cell(f"slice {name}"), cell(_held(held.get("sources", []), UNITS[kind])))
    for title, values in (("fact", facts), ("config", manifest.config)):
        for key, value in values.items():
            shown = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
            table.add_row(cell(f"{title} {key}"), cell(shown))
    files = {name: f"{entry.bytes:,} bytes, xxh3 {entry.xxh3_128}" for name, entry in manifest.files.items()}
    for title, entries in (("file", files), ("input", manifest.inputs)):
        for key, value in list(entries.items())[:MOST_ROWS]:
            table.add_row(cell(f"{title} {key}"), cell(value))
        if len(entries) > MOST_ROWS:
            table.add_row(f"{title}s", f"{len(entries):,} in all; the others are in {MANIFEST}")
    console.print(table)
    console.print("all files match their checksums" if whole else "sizes match; verify=true compares checksums")


def _held(sources: Sequence[Mapping[str, Any]], unit: str) -> str:
    """Return what a slice of TOKENS or PAIRS holds, and its largest sources."""
    count, tokens = (sum(source[key] for source in sources) for key in (unit, "tokens"))
    largest = sorted(sources, key=lambda source: -source["tokens"])[:MOST_SOURCES]
    named = ", ".join(f"{source['name']} {source['tokens']:,}" for source in largest)
    more = f" and {len(sources) - len(largest):,} more" if len(sources) > len(largest) else ""
    of = f" in {len(sources):,} source{'s' * (len(sources) != 1)} ({named}{more})" if sources else ""
    return f"{count:,} {unit}, {tokens:,} tokens{of}"
