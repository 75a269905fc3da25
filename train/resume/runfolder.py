"""The RUN folder: one writer at a time, one set of settings for all attempts."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from curriculum.artifact.drafts import remove_abandoned
from curriculum.artifact.files import DISK_FULL, ArtifactError, fingerprint_of, write_text
from curriculum.artifact.lock import Lock
from curriculum.artifact.manifest import Manifest, open_manifest
from train import checkpoint
from train.config.compose import as_yaml
from train.config.packages import versions
from train.inputs import Inputs
from train.records.config_json import CONFIG, config_text
from train.records.layout import CHECKPOINTS, LOCK, RUN
from train.records.run_json import FORMAT, as_text, checksum_of, read_run
from train.records.state import RUNNING
from train.resume.batch_size import check_batch_size
from train.resume.identity import Change, changes, facts_of, flat, identity, judge, unrecorded
from train.resume.lineage import ChangedRun
from train.resume.output import check_output, refuse_links
from train.settings import TrainSettings

log = logging.getLogger(__name__)

STOP_S = 1.0
"""How long a signal waits for run.json to be written, before the process exits."""


class RunFolder:
    """An open RUN folder with this process as its only writer."""

    def __init__(self, path: Path, facts: dict[str, Any], lock: Lock, created: Sequence[Path] = ()) -> None:
        self.path = path
        self.facts = facts
        self._lock = lock
        self._created = created
        """What claiming created, innermost first: nothing, or the lock file, then folders."""
        self._writing = threading.Lock()

    @classmethod
    def claim(cls, path: Path, wait_s: float = 15.0) -> RunFolder:
        """Create or open a RUN folder and lock it.

        Raises ValueError when it cannot be created, holds something else, or another process keeps writing there.
        """
        check_output(path)
        created = [place for place in (path / LOCK, path, *path.parents) if not place.exists()]
        try:
            path.mkdir(parents=True, exist_ok=True)
            refuse_links(path)
            lock = Lock(path / LOCK, f"run {path}", wait_s)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise
            raise ValueError(
                f"output={path} cannot be written ({error}): choose a folder this user can write to"
            ) from error
        remove_abandoned(path)
        return cls(path, read_run(path) if (path / RUN).exists() else {}, lock, created)

    def admit(self, settings: TrainSettings, inputs: Inputs, found: Path | None) -> list[Change]:
        """Return the accepted changes since earlier attempts; `found` is the checkpoint to resume from, if any.

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
        """Record settings and data of the run; `lives` keeps every attempt with the step it resumed from.

        `set_aside`: records that this attempt found damaged and starts again.
        """
        settings_identity, software = identity(settings), versions()
        for change in accepted:
            log.warning("accepted on record: %s", change)
        prints = {**inputs.fingerprints, "config": fingerprint_of(settings_identity)}
        attempt = {
            "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "step": step,
            "order": prints["order"],
            "versions": software,
            **({"accepted": [asdict(change) for change in accepted]} if accepted else {}),
            **({"set_aside": list(set_aside)} if set_aside else {}),
            **extra,
        }
        self.facts = {
            **self.facts,
            "format": FORMAT,
            "arm": settings.arm,
            "seed": settings.seed,
            "status": RUNNING,
            "identity": settings_identity,
            "decoder": asdict(inputs.decoder),
            "fingerprints": prints,
            "versions": software,
            "lives": [*self.facts.get("lives", []), attempt],
            **extra,
        }
        write_text(self.path / "config.yaml", as_yaml(settings))
        write_text(self.path / CONFIG, config_text(asdict(settings)))
        self._write()

    def finish(self, cursor: int, consumed_hash: str) -> None:
        """Mark the run as finished and record what it consumed."""
        self.facts |= {"status": "finished", "cursor": cursor, "consumed_hash": consumed_hash}
        self._write()

    def stop(self, number: int) -> None:
        """Record that signal `number` ended this attempt, unless the run is finished. Any thread may call it."""
        if not self._writing.acquire(timeout=STOP_S):
            return
        try:
            attempts = self.facts.get("lives", [])
            if self.facts.get("status") != RUNNING or not attempts:
                return
            name = signal.Signals(number).name
            end = {"signal": name, "at": datetime.now(UTC).isoformat(timespec="seconds")}
            stopped = {"status": f"stopped by {name}", "lives": [*attempts[:-1], {**attempts[-1], "stopped": end}]}
            self.facts |= stopped
            self._write_now()
        finally:
            self._writing.release()

    @property
    def finished(self) -> bool:
        """Is the run finished?"""
        return self.facts.get("status") == "finished"

    def release(self) -> None:
        """Release the lock."""
        self._lock.release()

    def abandon(self) -> None:
        """Release the lock of a run that is refused, and remove what claiming created."""
        if self._created:
            (self.path / LOCK).unlink(missing_ok=True)
        self.release()
        for folder in self._created[1:]:
            with suppress(OSError):  # something was written into it
                folder.rmdir()

    def _write(self) -> None:
        with self._writing:
            self._write_now()

    def _write_now(self) -> None:
        write_text(self.path / RUN, as_text({**self.facts, "checksum": checksum_of(self.facts)}))


def admit(
    path: Path, facts: Mapping[str, Any], settings: TrainSettings, inputs: Inputs, found: Manifest | None
) -> list[Change]:
    """Return the accepted changes since a run's facts and the checkpoint it resumes from were written.

    Raises ChangedRun. An unfinished run may resume with an order replanned from its own: `check_resume` compares the
    consumed part.
    """
    asked, over = facts_of(settings, inputs), facts.get("status") == "finished"
    accept = [*settings.accept_change, *(["arm"] if settings.branch_of else [])]

    def differences(old: Mapping[str, Any]) -> list[Change]:
        replanned = not over and old["fingerprints.order"] in inputs.ancestors
        return [change for change in changes(old, asked) if not (replanned and change.field == "fingerprints.order")]

    accepted = []
    if not over:
        check_batch_size(path, facts, settings, inputs.order, found)
    if facts:
        accepted = differences(flat(facts["identity"], facts["fingerprints"], facts.get("decoder", {})))
        if accepted and over:
            named = "; ".join(map(str, accepted))
            raise ChangedRun(f"run {path} is finished, with other settings or data ({named}): choose another output")
        judge(f"run {path}", accepted, accept, trained=found is not None)
    if found is not None:
        there = flat(found.config, found.inputs, found.facts.get("model", {}))
        since = unrecorded(differences(there), facts.get("lives", []))
        judge(f"the checkpoint of step {found.facts['step']} in {path}", since, accept, trained=True)
        accepted += [change for change in since if change not in accepted]
    return accepted


def finished(path: Path, settings: TrainSettings, inputs: Inputs) -> bool:
    """Return whether `path` holds a finished run with exactly these settings.

    Raises ChangedRun when it holds another one, according to run.json and the newest readable checkpoint.
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
            continue  # the start of a run names and skips it
        except OSError as error:
            raise checkpoint.UnreadableCheckpoint.of(folder, error) from error
    return None
