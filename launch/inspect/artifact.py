"""`pdpc inspect`: what an artifact is, what made it, is it whole; of an order, its plan and its steps too."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from curriculum.artifact.manifest import kind_of, open_manifest, verify
from launch.inspect.settings import RUN, InspectSettings

PIPE_WIDTH = 160
"""Letters a line where there is no terminal to ask."""


def run(settings: InspectSettings) -> int:
    """Show what there is; return 1 when a check of an order fails. Raises ArtifactError for a torn artifact."""
    from curriculum.work.console import PlainConsole

    folder = Path(settings.folder)
    console = PlainConsole(width=None if sys.stdout.isatty() else PIPE_WIDTH)
    if (folder / RUN).is_file() or kind_of(folder) == "order":
        from launch.inspect.order import inspect_order

        return inspect_order(settings, console)
    if settings.of_orders:
        key, value = next(iter(settings.of_orders.items()))
        raise ValueError(f"{key}={value} is for an ORDER or a RUN, {folder} is a {kind_of(folder)}: leave it out")
    _show_manifest(folder, settings.verify, console)
    return 0


def _show_manifest(folder: Path, whole: bool, console: Any) -> None:
    """Print an artifact's manifest."""
    from rich.table import Table

    from curriculum.work.console import cell

    kind = kind_of(folder)
    manifest = open_manifest(folder, kind)
    if whole:
        verify(folder)
    table = Table(title=cell(f"{kind} {folder}"), show_header=False, title_justify="left")
    table.add_row("fingerprint", manifest.fingerprint)
    table.add_row("made", f"{manifest.created_at} by PDPC {manifest.code_version}")
    for title, values in (("input", manifest.inputs), ("config", manifest.config), ("fact", manifest.facts)):
        for key, value in values.items():
            shown = json.dumps(value, ensure_ascii=False) if not isinstance(value, str) else value
            table.add_row(cell(f"{title} {key}"), cell(shown))
    for name, entry in manifest.files.items():
        table.add_row(cell(f"file {name}"), f"{entry.bytes:,} bytes, xxh3 {entry.xxh3_128}")
    console.print(table)
    console.print("every file matches its checksum" if whole else "sizes match; verify=true reads every byte")
