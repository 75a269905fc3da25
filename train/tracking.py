"""Tracking: metrics.jsonl is the truth; a tracker shows the same records elsewhere."""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from curriculum.artifact import write_text

log = logging.getLogger(__name__)

Record = dict[str, Any]

METRICS = "metrics.jsonl"
WANDB_TEMPORARY = ".wandb_tmp"


@dataclass(frozen=True)
class TrackerSettings:
    """Where metrics go beside metrics.jsonl."""

    name: str = "none"
    """wandb or none."""
    project: str = "pdpc"
    """W&B project."""
    entity: str | None = None
    """W&B user or team; null: the key's own."""
    group: str | None = None
    """W&B group: the arms of one comparison share it."""
    tags: list[str] = field(default_factory=list)
    """W&B tags."""

    def __post_init__(self) -> None:
        if self.name not in TRACKERS:
            raise ValueError(f"tracker.name={self.name!r} is unknown: use one of {sorted(TRACKERS)}")


class Tracker(Protocol):
    """Somewhere that metrics are shown."""

    def log(self, record: Record) -> None:
        """Take one record of metrics.jsonl."""

    def finish(self) -> None:
        """Flush and close."""


class NullTracker:
    """Shows nothing."""

    def log(self, record: Record) -> None:
        """Drop the record: metrics.jsonl has it."""

    def finish(self) -> None:
        """Do nothing."""


class WandbTracker:
    """Weights & Biases: offline when there is no key, one run id for the life of a RUN folder.

    W&B trouble never stops a run: after the first failure the tracker is silent and says so once.
    """

    def __init__(self, settings: TrackerSettings, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_DISABLE_GIT", "true")
        self._run: Any = None
        self._temporary = folder / WANDB_TEMPORARY
        try:
            with _temporary_files_in(folder / WANDB_TEMPORARY):
                import wandb

            key = bool(os.environ.get("WANDB_API_KEY")) or _netrc_has_wandb()
            mode = os.environ.get("WANDB_MODE", "online" if key else "offline")
            self._run = wandb.init(
                project=settings.project,
                entity=settings.entity,
                group=settings.group,
                tags=list(settings.tags),
                name=name,
                id=_run_id(folder),
                resume="allow",
                dir=str(folder),
                config=dict(config),
                mode=mode,  # type: ignore[arg-type]
                settings=wandb.Settings(init_timeout=30, console="off", x_disable_stats=False, disable_code=True),
            )
            self._run.define_metric("trainer/tokens")
            self._run.define_metric("*", step_metric="trainer/tokens")
        except Exception as error:
            self._give_up(error)

    def log(self, record: Record) -> None:
        """Send a record; tokens are the axis that people compare on."""
        if self._run is None:
            return
        shown = {
            key: value
            for key, value in record.items()
            if key not in ("kind", "step", "tokens") and not isinstance(value, str)
        }
        try:
            self._run.log({**shown, "trainer/step": record["step"], "trainer/tokens": record["tokens"]})
        except Exception as error:
            self._give_up(error)

    def finish(self) -> None:
        """Flush what is queued."""
        if self._run is not None:
            try:
                self._run.finish()
            except Exception as error:
                self._give_up(error)
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _give_up(self, error: Exception) -> None:
        self._run = None
        log.warning("W&B is out of reach (%s): the run goes on, metrics.jsonl has every record", error)


TRACKERS = {"none": NullTracker, "wandb": WandbTracker}
"""Names that a config may choose."""


def start_tracker(settings: TrackerSettings, folder: Path, name: str, config: Mapping[str, Any]) -> Tracker:
    """Return the tracker that the settings name."""
    return WandbTracker(settings, folder, name, config) if settings.name == "wandb" else NullTracker()


@contextmanager
def _temporary_files_in(folder: Path) -> Iterator[None]:
    """Let what is imported here put its temporary folders into `folder`: ranks end without Python's own clean-up."""
    folder.mkdir(exist_ok=True)
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _netrc_has_wandb() -> bool:
    import netrc

    try:
        hosts = netrc.netrc().hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any("wandb" in host for host in hosts)


def _run_id(folder: Path) -> str:
    """Return the W&B run id of a RUN folder, drawn once."""
    import uuid

    path = folder / "wandb_id"
    if not path.exists():
        write_text(path, uuid.uuid4().hex[:12] + "\n")
    return path.read_text("utf-8").strip()


class MetricsFile:
    """`metrics.jsonl`: one JSON object a line, in step order; a resumed run drops what came after its checkpoint."""

    def __init__(self, folder: Path, resume_step: int) -> None:
        self.path = folder / METRICS
        kept = (
            [record for record in read_metrics(self.path) if record["step"] <= resume_step]
            if self.path.exists()
            else []
        )
        write_text(self.path, "".join(_line(record) for record in kept))
        self.stages = {record["step"] for record in kept if record["kind"] == "stage"}
        self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115  # held until close()

    def append(self, record: Record) -> None:
        """Write a record; it is in the file when this returns."""
        self._file.write(_line(record))
        self._file.flush()
        if record["kind"] == "stage":
            self.stages.add(record["step"])

    def sync(self) -> None:
        """Make every record durable."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=True) + "\n"


def read_metrics(path: Path) -> list[Record]:
    """Return the records of a metrics file; a torn last line (of a killed writer) is left out.

    Raises ValueError naming a broken line elsewhere.
    """
    records = []
    lines = path.read_text("utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            records.append(json.loads(line))
        except ValueError as error:
            if number == len(lines):
                break
            raise ValueError(
                f"{path} line {number} is not JSON ({error}): the file was changed by hand; restore it"
            ) from error
    return records
