"""`pdpc inspect`: provenance and integrity of any artifact; plan and steps of an order."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from curriculum.artifact.manifest import kind_of, open_manifest, verify
from launch.inspect.settings import RUN, InspectSettings

PIPE_WIDTH = 160
"""Characters per line if the output is not a terminal."""


def run(settings: InspectSettings) -> int:
    """Print an artifact; return 1 if a check of an order fails. Raises ArtifactError for a damaged artifact."""
    from rich.console import Console

    folder = Path(settings.folder)
    console = Console(width=None if sys.stdout.isatty() else PIPE_WIDTH, highlight=False)
    if (folder / RUN).is_file() or kind_of(folder) == "order":
        from launch.inspect.order import inspect_order

        return inspect_order(settings, console)
    if settings.of_orders:
        key, value = next(iter(settings.of_orders.items()))
        raise ValueError(f"{key}={value} needs an ORDER or a RUN, but {folder} is a {kind_of(folder)}: leave it out")
    _show_manifest(folder, settings.verify, console)
    return 0


def _show_manifest(folder: Path, whole: bool, console: Any) -> None:
    """Print the manifest of an artifact."""
    from rich.table import Table

    kind = kind_of(folder)
    manifest = open_manifest(folder, kind)
    if whole:
        verify(folder)
    table = Table(title=f"{kind} {folder}", show_header=False, title_justify="left")
    table.add_row("fingerprint", manifest.fingerprint)
    table.add_row("created", f"{manifest.created_at} by PDPC {manifest.code_version}")
    for title, values in (("input", manifest.inputs), ("config", manifest.config), ("fact", manifest.facts)):
        for key, value in values.items():
            table.add_row(f"{title} {key}", json.dumps(value) if not isinstance(value, str) else value)
    for name, entry in manifest.files.items():
        table.add_row(f"file {name}", f"{entry.bytes:,} bytes, xxh3 {entry.xxh3_128}")
    console.print(table)
    console.print("all files match their checksums" if whole else "sizes match; verify=true compares checksums")
