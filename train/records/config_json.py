"""config.json: every setting of a run, as resolved, with a checksum."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curriculum.artifact.files import ArtifactError, reading
from train.records.run_json import checksum_of

CONFIG = "config.json"
CHECKSUM = "checksum"
REMEDY = "restore it, or run pdpc train again, which writes it"


def config_text(settings: Mapping[str, Any]) -> str:
    """Return config.json's text."""
    plain = json.loads(json.dumps(settings))
    return json.dumps({**plain, CHECKSUM: checksum_of(plain)}, indent=1) + "\n"


def read_config(run: Path) -> dict[str, Any]:
    """Return a run's settings without the checksum. One of an earlier version has none.

    Raises ArtifactError naming the file if it is damaged or was edited, FileNotFoundError if it is missing.
    """
    path = run / CONFIG
    with reading(path, REMEDY):
        settings = json.loads(path.read_text("utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("it is not an object")
    return without_checksum(path, settings)


def without_checksum(path: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return what was read from `path` without its checksum, once that was compared. Raises ArtifactError."""
    if CHECKSUM in settings and settings.pop(CHECKSUM) != checksum_of(settings):
        raise ArtifactError(f"{path} does not match its own checksum: it was changed; {REMEDY}")
    return settings
