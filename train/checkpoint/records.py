"""The records beside the checkpoints that a resumed run reads: a checkpoint vouches for them as they stood then.

They grow, so the manifest (`facts.records`) has size and checksum of what was there. A damaged record never costs the
weights: it is named, kept aside as `NAME.damaged`, and the run goes on with what of it can still be read.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import xxhash

from curriculum.artifact.manifest import Manifest, hash_file, sync, write_text
from train.checkpoint.find import aside_of
from train.records.consumption import CONSUMED
from train.records.skipped import SKIPPED
from train.tracking import METRICS

log = logging.getLogger(__name__)

LINES = (METRICS, SKIPPED)
"""Records with a JSON object a line."""
PATTERNS = (*LINES, "wandb_id", f"{CONSUMED}/world_*.bin")


def seal_records(run: Path) -> dict[str, dict[str, int | str]]:
    """Return size and checksum of every record of a RUN folder as it stands now, by its path in there."""
    found: dict[str, dict[str, int | str]] = {}
    for path in (path for pattern in PATTERNS for path in sorted(run.glob(pattern)) if path.is_file()):
        entry = hash_file(path)
        found[path.relative_to(run).as_posix()] = {"bytes": entry.bytes, "xxh3_128": entry.xxh3_128}
    return found


def damaged_records(run: Path, manifest: Manifest | None, begun_anew: Collection[str] = ()) -> list[str]:
    """Return the records of a RUN folder that are not what the checkpoint it goes on from vouches for, by path.

    Beyond that (None: all of it) only lines that cannot be read count, as in those that an earlier start has set aside
    and `begun_anew` since the checkpoint.
    """
    sealed: Mapping[str, Any] = manifest.facts.get("records", {}) if manifest is not None else {}
    vouched = {name: entry for name, entry in sealed.items() if name not in begun_anew}
    damaged = [name for name, entry in vouched.items() if not _begins_with(run / name, entry)]
    return damaged + [
        name
        for name in LINES
        if name not in damaged and (run / name).is_file() and len(list(_whole_lines(run / name))) < _lines(run / name)
    ]


def set_aside(run: Path, names: list[str]) -> None:
    """Keep damaged records as `NAME.damaged`; of those with a record a line, the lines that can be read stay.

    A kill at any time loses nothing: what is there is replaced when a copy of it is.
    """
    for name in names:
        path = run / name
        aside = aside_of(path)
        lines = list(_whole_lines(path)) if name in LINES and path.is_file() else []
        if lines:
            shutil.copyfile(path, aside)
            sync(aside)
            write_text(path, "".join(f"{line}\n" for line in lines))
        elif path.exists():
            os.replace(path, aside)
        log.warning(
            "%s is not what the checkpoint vouches for: it is damaged or was changed. It is kept as %s, and the "
            "run goes on%s",
            path,
            aside.name,
            f" with the {len(lines)} records of it that can be read" if lines else " without it",
        )


def _begins_with(path: Path, entry: Mapping[str, Any]) -> bool:
    """Tell whether the first bytes of a file are those that were sealed."""
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
    """Yield the lines of a file that are records."""
    for raw in path.read_bytes().split(b"\n"):
        try:
            line = raw.decode()
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict) and type(record.get("step")) is int and (path.name != METRICS or "kind" in record):
            yield line


def _lines(path: Path) -> int:
    """Return how many lines a file has; a last one without an end, which a killed writer leaves, is none."""
    data = path.read_bytes()
    return sum(1 for line in data.split(b"\n")[:-1] if line)
