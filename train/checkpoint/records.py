"""The records in a RUN folder that a resumed run reads, sealed by each checkpoint as they were at that moment.

They grow, so the manifest (`facts.records`) stores the size and checksum of the part that existed. A damaged record
never invalidates the weights: it is logged, kept as `NAME.damaged`, and the run resumes with the lines still readable.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from curriculum.artifact.files import copy_file, hash_file, write_text
from curriculum.artifact.manifest import Manifest
from train.checkpoint.find import aside_of
from train.records.layout import CONSUMED
from train.records.skipped import SKIPPED
from train.tracking import METRICS

log = logging.getLogger(__name__)

LINES = (METRICS, SKIPPED)
"""Records with one JSON object per line."""
PATTERNS = (*LINES, "wandb_id", f"{CONSUMED}/world_*.bin")


def seal_records(run: Path) -> dict[str, dict[str, int | str]]:
    """Return the current size and checksum of every record in a RUN folder, by relative path."""
    found: dict[str, dict[str, int | str]] = {}
    for path in (path for pattern in PATTERNS for path in sorted(run.glob(pattern)) if path.is_file()):
        entry = hash_file(path)
        found[path.relative_to(run).as_posix()] = {"bytes": entry.bytes, "xxh3_128": entry.xxh3_128}
    return found


def damaged_records(run: Path, manifest: Manifest | None, restarted: Collection[str] = ()) -> list[str]:
    """Return the relative paths of records that differ from those sealed in the checkpoint the run resumes from.

    The part written after the checkpoint (without a manifest: everything) is checked only for unreadable lines; so are
    `restarted` records, which an earlier attempt has set aside since the checkpoint.
    """
    sealed: Mapping[str, Any] = manifest.facts.get("records", {}) if manifest is not None else {}
    checked = {name: entry for name, entry in sealed.items() if name not in restarted}
    damaged = [name for name, entry in checked.items() if not _begins_with(run / name, entry)]
    return damaged + [
        name
        for name in LINES
        if name not in damaged and (run / name).is_file() and len(list(_whole_lines(run / name))) < _lines(run / name)
    ]


def set_aside(run: Path, names: list[str]) -> None:
    """Move damaged records to `NAME.damaged`; files with one record per line keep their readable lines.

    A kill at any time loses nothing: a file is replaced only after it has been copied.
    """
    for name in names:
        path = run / name
        aside = aside_of(path)
        lines = list(_whole_lines(path)) if name in LINES and path.is_file() else []
        if lines:
            copy_file(path, aside)
            write_text(path, "".join(f"{line}\n" for line in lines))
        elif path.exists():
            os.replace(path, aside)
        log.warning(
            "%s does not match the checkpoint: it is damaged or was modified; kept as %s, the run resumes %s",
            path,
            aside.name,
            f"with the {len(lines)} records that can be read" if lines else "without it",
        )


def _begins_with(path: Path, entry: Mapping[str, Any]) -> bool:
    """Tell whether a file still begins with the sealed bytes."""
    digest, left = xxhash.xxh3_128(), int(entry["bytes"])
    try:
        with open(path, "rb") as file:
            while left and (block := file.read(min(left, 8 << 20))):
                digest.update(block)
                left -= len(block)
    except OSError:
        return False
    return not left and digest.hexdigest() == entry["xxh3_128"]


def _whole_lines(path: Path) -> Iterator[str]:
    """Yield the lines of a file that are valid records."""
    for raw in path.read_bytes().split(b"\n"):
        try:
            line = raw.decode()
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and type(record.get("step")) is int and (path.name != METRICS or "kind" in record):
            yield line


def _lines(path: Path) -> int:
    """Return the number of non-empty lines; a last line without a newline (left by a killed writer) does not count."""
    data = path.read_bytes()
    return sum(1 for line in data.split(b"\n")[:-1] if line)
