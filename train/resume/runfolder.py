"""The RUN folder: one writer at a time, one set of settings for its whole life."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from curriculum.artifact.files import DISK_FULL, ArtifactError, fingerprint_of, reading, write_text
from curriculum.artifact.lock import Lock
from curriculum.artifact.manifest import MANIFEST, Manifest, open_manifest
from train import checkpoint
from train.config.compose import as_yaml
from train.config.packages import versions
from train.distributed.watchdog import STACKS
from train.evaluation.answers import EVALUATIONS
from train.inputs import Inputs
from train.records.consumed import CONSUMED
from train.resume.identity import Change, changes, facts_of, flat, identity, judge, unrecorded
from train.resume.lineage import ChangedRun
from train.settings import TrainSettings
from train.tracking import METRICS

log = logging.getLogger(__name__)

RUN = "run.json"
FORMAT = 2
"""Of run.json; before 2 it had no checksum."""
CHECKPOINTS = "checkpoints"
EXPORT = "export"
FILES = ("config.json", "config.yaml", "ds_config.json", METRICS)
"""What a run writes beside run.json."""
FOLDERS = (CHECKPOINTS, CONSUMED, EVALUATIONS, STACKS)
"""Folders of a RUN in which files are written."""
WRITTEN = ("arm", "fingerprints", "identity", "parameters", "paths", "seed", "status", "versions")
"""What is in every run.json, and what readers build on."""
MEND = "restore it, or remove it to go on from the newest checkpoint (what it tells of earlier lives is lost then)"


class RunFolder:
    """An open RUN folder, whose sole writer is this process."""

    def __init__(self, path: Path, facts: dict[str, Any], lock: Lock) -> None:
        self.path = path
        self.facts = facts
        self._lock = lock

    @classmethod
    def claim(cls, path: Path, wait_s: float = 15.0) -> RunFolder:
        """Create or open a RUN folder and lock it.

        Raises ValueError when it cannot be made, holds something else, or another process goes on writing there.
        """
        check_output(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            refuse_links(path)
            lock = Lock(path / ".lock", f"run {path}", wait_s)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            raise ValueError(
                f"output={path} cannot be written ({error}): name a folder that you may write to"
            ) from error
        return cls(path, read_run(path) if (path / RUN).exists() else {}, lock)

    def admit(self, settings: TrainSettings, inputs: Inputs, found: Path | None) -> list[Change]:
        """Return what is accepted to be other than before; `found` is the checkpoint to go on from, if there is one.

        Raises ChangedRun naming every change that is not accepted or cannot be.
        """
        manifest = open_manifest(found, checkpoint.KIND) if found else None
        return admit(self.path, self.facts, settings, inputs, manifest)

    def describe(
        self,
        settings: TrainSettings,
        inputs: Inputs,
        step: int,
        accepted: Sequence[Change],
        set_aside: Sequence[str],
        extra: Mapping[str, Any],
    ) -> None:
        """Write what the run is made of; every life of a run, and the step that it goes on from, is kept in `lives`.

        `set_aside`: records that this life found damaged and begins anew.
        """
        asked, made_by = identity(settings), versions()
        for change in accepted:
            log.warning("accepted on record: %s", change)
        prints = {**inputs.fingerprints, "config": fingerprint_of(asked)}
        life = {
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "step": step,
            "order": prints["order"],
            "versions": made_by,
            **({"accepted": [asdict(change) for change in accepted]} if accepted else {}),
            **({"set_aside": list(set_aside)} if set_aside else {}),
            **extra,
        }
        self.facts = {
            **self.facts,
            "format": FORMAT,
            "arm": settings.arm,
            "seed": settings.seed,
            "status": "running",
            "identity": asked,
            "decoder": asdict(inputs.decoder),
            "fingerprints": prints,
            "versions": made_by,
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
        self._lock.release()

    def _write(self) -> None:
        write_text(self.path / RUN, _as_text({**self.facts, "checksum": _checksum(self.facts)}))


def admit(
    path: Path, facts: Mapping[str, Any], settings: TrainSettings, inputs: Inputs, found: Manifest | None
) -> list[Change]:
    """Return what is accepted to be other than a run's facts and the checkpoint that it goes on from say.

    Raises ChangedRun. A run that is not finished may go on with an order replanned from its own: `check_resume`
    compares what was read.
    """
    asked, accept, over = facts_of(settings, inputs), settings.accept_change, facts.get("status") == "finished"

    def differences(old: Mapping[str, Any]) -> list[Change]:
        replanned = not over and old["fingerprints.order"] in inputs.ancestors
        return [change for change in changes(old, asked) if not (replanned and change.field == "fingerprints.order")]

    accepted = []
    if facts:
        accepted = differences(flat(facts["identity"], facts["fingerprints"], facts.get("decoder", {})))
        if accepted and over:
            told = "; ".join(map(str, accepted))
            raise ChangedRun(f"run {path} is finished, with other settings or data ({told}): give another output")
        judge(f"run {path}", accepted, accept, trained=found is not None)
    if found is not None:
        there = flat(found.config, found.inputs, found.facts.get("model", {}))
        since = unrecorded(differences(there), facts.get("lives", []))
        judge(f"the checkpoint of step {found.facts['step']} in {path}", since, accept, trained=True)
        accepted += [change for change in since if change not in accepted]
    return accepted


def finished(path: Path, settings: TrainSettings, inputs: Inputs) -> bool:
    """Tell whether `path` holds a finished run of just these settings.

    Raises ChangedRun when it holds another, by what run.json and the newest readable checkpoint say.
    """
    facts = read_run(path) if (path / RUN).is_file() else {}
    over = facts.get("status") == "finished"
    if not over:
        check_output(path)
    admit(path, facts, settings, inputs, None if over else _readable(path / CHECKPOINTS))
    return over


def _readable(checkpoints: Path) -> Manifest | None:
    """Return the manifest of the newest checkpoint that has one; its files are not read.

    Raises UnreadableCheckpoint.
    """
    for folder in checkpoint.candidates(checkpoints):
        try:
            return open_manifest(folder, checkpoint.KIND)
        except (ArtifactError, FileNotFoundError):
            continue  # a start names it and passes it over
        except OSError as error:
            raise checkpoint.UnreadableCheckpoint.of(folder, error) from error
    return None


def check_output(path: Path) -> None:
    """Raise ValueError when a folder cannot become a RUN, or holds something else whose files a run would replace."""
    try:
        nearest = next(place for place in (path, *path.absolute().parents) if place.exists())
        there = {entry.name for entry in os.scandir(path)} if path.is_dir() else set()
    except OSError as error:
        raise ValueError(
            f"output={path} cannot be read ({error}): name a folder that you may read and write"
        ) from error
    if not nearest.is_dir():
        what = "is a file" if nearest == path else f"lies under {nearest}, which is a file"
        raise ValueError(f"output={path} {what}: name the folder of the run")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise ValueError(
            f"output={path} cannot be written ({nearest} is read-only): name a folder that you may write to"
        )
    if not there & {RUN, ".lock", CHECKPOINTS} and (replaced := sorted(there & {MANIFEST, *FILES, EXPORT})):
        raise ValueError(f"output={path} holds something else ({', '.join(replaced)}): name a new folder")


def refuse_links(path: Path) -> None:
    """Raise ArtifactError when an entry of a RUN folder is a link: what a run writes stays in its folder.

    The folder itself may be one. W&B's own folder, which holds links to its newest run, is left to W&B.
    """
    for inside in (path, *(path / name for name in FOLDERS)):
        for entry in os.scandir(inside) if inside.is_dir() else ():
            if entry.is_symlink():
                raise ArtifactError(
                    f"{entry.path} is a link to {os.readlink(entry.path)}: a run writes into its own folder alone; "
                    "copy what it points to, or link the whole folder"
                )


def read_run(path: Path) -> dict[str, Any]:
    """Return a run's facts. Raises ArtifactError naming what is missing or damaged."""
    file = path / RUN
    if not file.is_file():
        raise ArtifactError(f"{path} is not a RUN folder (it has no {RUN}): give the output of pdpc train")
    with reading(file, MEND):
        text = file.read_text("utf-8")
        facts: dict[str, Any] = json.loads(text)
    lacking = [key for key in WRITTEN if not isinstance(facts, dict) or key not in facts]
    if lacking:
        raise ArtifactError(
            f"{file} has no {', '.join(lacking)}: it is not a run of pdpc train; give one, or restore it"
        )
    if ("format" in facts or "checksum" in facts) and (
        text != _as_text(facts) or facts.pop("checksum", None) != _checksum(facts)
    ):
        raise ArtifactError(f"{file} does not match its own checksum: it is damaged; {MEND}")
    return facts


def _as_text(facts: Mapping[str, Any]) -> str:
    return json.dumps(facts, indent=1, sort_keys=True) + "\n"


def _checksum(facts: Mapping[str, Any]) -> str:
    return fingerprint_of({key: value for key, value in facts.items() if key != "checksum"})
