"""`pdpc inspect`: what an artifact is, what made it, and whether it is whole."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from curriculum.artifact import kind_of, open_manifest, verify


@dataclass(frozen=True)
class InspectSettings:
    """What `pdpc inspect` is told."""

    folder: str
    """Artifact: TOKENS, SCORES, ORDER, a checkpoint or a benchmark."""
    verify: bool = False
    """Read every file and compare its checksum."""


def run(settings: InspectSettings) -> None:
    """Print an artifact's manifest; raise ArtifactError when it is not whole."""
    from rich.console import Console
    from rich.table import Table

    folder = Path(settings.folder)
    kind = kind_of(folder)
    manifest = open_manifest(folder, kind)
    if settings.verify:
        verify(folder)
    table = Table(title=f"{kind} {folder}", show_header=False, title_justify="left")
    table.add_row("fingerprint", manifest.fingerprint)
    table.add_row("made", f"{manifest.created_at} by PDPC {manifest.code_version}")
    for title, values in (("input", manifest.inputs), ("config", manifest.config), ("fact", manifest.facts)):
        for key, value in values.items():
            table.add_row(f"{title} {key}", json.dumps(value) if not isinstance(value, str) else value)
    for name, entry in manifest.files.items():
        table.add_row(f"file {name}", f"{entry.bytes:,} bytes, xxh3 {entry.xxh3_128}")
    console = Console()
    console.print(table)
    console.print("every file matches its checksum" if settings.verify else "sizes match; verify=true reads every byte")
