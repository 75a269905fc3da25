"""The RUN folder: one writer at a time, one set of settings for its whole life."""

from __future__ import annotations

import fcntl
import json
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from curriculum.artifact import ArtifactError, code_version, differing, fingerprint_of, write_text
from train.compose import as_yaml
from train.inputs import Inputs
from train.settings import TrainSettings, identity

RUN = "run.json"
CHECKPOINTS = "checkpoints"
EXPORT = "export"
WRITTEN = ("arm", "fingerprints", "identity", "parameters", "paths", "seed", "status", "versions")
"""What is in every run.json, and what readers build on."""


class RunFolder:
    """An open RUN folder, held by a lock that dies with the process."""

    def __init__(self, path: Path, facts: dict[str, Any], lock: Any) -> None:
        self.path = path
        self.facts = facts
        self._lock = lock

    @classmethod
    def claim(cls, path: Path, wait_s: float = 15.0) -> RunFolder:
        """Create or open a RUN folder and lock it. Raises ValueError when another process goes on writing there."""
        path.mkdir(parents=True, exist_ok=True)
        lock = open(path / ".lock", "a")  # noqa: SIM115  # held until release()
        deadline = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise ValueError(
                        f"run {path} is being written by another process: wait for it, or choose another output"
                    ) from error
                time.sleep(0.2)
        return cls(path, read_run(path) if (path / RUN).exists() else {}, lock)

    def refuse_changes(self, settings: TrainSettings, inputs: Inputs) -> None:
        """Raise ValueError naming the first keys in which the run, if there is one, differs from what is asked for."""
        if self.facts:
            refuse_changes(self.path, self.facts, settings, inputs)

    def describe(self, settings: TrainSettings, inputs: Inputs, step: int, extra: Mapping[str, Any]) -> None:
        """Write what the run is made of; every life of a run, and the step that it goes on from, is kept in `lives`."""
        asked = identity(settings)
        versions = {"pdpc": code_version(), "python": platform.python_version()}
        versions |= {name: version(name) for name in ("torch", "deepspeed")}
        prints = {**inputs.fingerprints, "config": fingerprint_of(asked)}
        life = {
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "step": step,
            "order": prints["order"],
            "versions": versions,
            **extra,
        }
        self.facts = {
            **self.facts,
            "arm": settings.arm,
            "seed": settings.seed,
            "status": "running",
            "identity": asked,
            "fingerprints": prints,
            "versions": versions,
            "lives": [*self.facts.get("lives", []), life],
            **extra,
        }
        write_text(self.path / "config.yaml", as_yaml(settings))
        write_text(self.path / "config.json", json.dumps(asdict(settings), indent=1) + "\n")
        self._write()

    def finish(self, cursor: int, consumed_hash: str) -> None:
        """Mark the run as finished and say what it consumed."""
        self.facts |= {"status": "finished", "cursor": cursor, "consumed_hash": consumed_hash}
        self._write()

    @property
    def finished(self) -> bool:
        """Has the run reached its end?"""
        return self.facts.get("status") == "finished"

    def release(self) -> None:
        """Give up the lock."""
        self._lock.close()

    def _write(self) -> None:
        write_text(self.path / RUN, json.dumps(self.facts, indent=1, sort_keys=True) + "\n")


def refuse_changes(path: Path, facts: Mapping[str, Any], settings: TrainSettings, inputs: Inputs) -> None:
    """Raise ValueError naming the first keys in which a run differs from what is asked for.

    A run that is not finished may go on with an order replanned from its own: `check_resume` compares what was read.
    """
    prints = {**facts["fingerprints"], "config": ""}
    if facts["status"] != "finished" and prints["order"] in inputs.ancestors:
        prints["order"] = inputs.fingerprints["order"]
    old = {"settings": facts["identity"], "fingerprints": prints}
    new = {
        "settings": json.loads(json.dumps(identity(settings))),
        "fingerprints": {**inputs.fingerprints, "config": ""},
    }
    changes = [
        f"{key.removeprefix('settings.')}: {there!r} there, {asked!r} now" for key, there, asked in differing(old, new)
    ]
    if changes:
        raise ValueError(
            f"run {path} was started with other settings ({'; '.join(changes[:5])}): "
            "give another output, or the same settings"
        )


def finished(path: Path, settings: TrainSettings, inputs: Inputs) -> bool:
    """Tell whether `path` holds a finished run of just these settings. Raises ValueError when it holds another."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"output={path} is a file: name the folder of the run")
    if not (path / RUN).is_file():
        return False
    facts = read_run(path)
    refuse_changes(path, facts, settings, inputs)
    return bool(facts["status"] == "finished")


def read_run(path: Path) -> dict[str, Any]:
    """Return a run's facts. Raises ArtifactError naming what is missing."""
    file = path / RUN
    if not file.is_file():
        raise ArtifactError(f"{path} is not a RUN folder (it has no {RUN}): give the output of pdpc train")
    try:
        facts: dict[str, Any] = json.loads(file.read_text("utf-8"))
    except ValueError as error:
        raise ArtifactError(f"{file} is not JSON ({error}): restore it") from error
    lacking = [key for key in WRITTEN if not isinstance(facts, dict) or key not in facts]
    if lacking:
        raise ArtifactError(
            f"{file} has no {', '.join(lacking)}: it is not a run of pdpc train; give one, or restore it"
        )
    return facts
