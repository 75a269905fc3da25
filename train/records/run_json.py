"""run.json: what a run is, with its checksum."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from curriculum.artifact.files import ArtifactError, fingerprint_of, read_text, reading
from train.records.layout import RUN

FORMAT = 2
"""Version of run.json; before 2 it had no checksum."""
WRITTEN = ("arm", "fingerprints", "identity", "parameters", "paths", "seed", "status", "versions")
"""Keys of every run.json, which readers rely on."""
REMEDY = "restore it, or remove it to resume from the newest checkpoint (its record of earlier attempts is then lost)"


def read_run(path: Path) -> dict[str, Any]:
    """Return a run's facts. Raises ArtifactError naming what is missing or damaged."""
    file = path / RUN
    if not file.is_file():
        raise ArtifactError(f"{path} is not a RUN folder (it has no {RUN}): give the output of pdpc train")
    with reading(file, REMEDY):
        text = read_text(file)
        facts: dict[str, Any] = json.loads(text)
    lacking = [key for key in WRITTEN if not isinstance(facts, dict) or key not in facts]
    if lacking:
        raise ArtifactError(
            f"{file} has no {', '.join(lacking)}: it is not a run of pdpc train; give one, or restore the file"
        )
    if ("format" in facts or "checksum" in facts) and (
        text != as_text(facts) or facts.pop("checksum", None) != checksum_of(facts)
    ):
        raise ArtifactError(f"{file} does not match its own checksum: it is damaged; {REMEDY}")
    return facts


def as_text(facts: Mapping[str, Any]) -> str:
    """Return run.json's text."""
    return json.dumps(facts, indent=1, sort_keys=True) + "\n"


def checksum_of(facts: Mapping[str, Any]) -> str:
    """Return the digest of a run's facts except the checksum itself."""
    return fingerprint_of({key: value for key, value in facts.items() if key != "checksum"})
