"""Weights & Biases: one run id per RUN folder; offline without an API key.

The logged metrics and their names are listed in docs/tracking.md.
"""

from __future__ import annotations

import logging
import os
import shlex
import shutil
import tempfile
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from curriculum.artifact.files import write_text
from curriculum.work.printable import printable
from train.records.layout import WANDB_ID
from train.tracking.metrics import NONFINITE, Record
from train.tracking.panels import STEP, TOKENS
from train.tracking.settings import TrackerSettings

log = logging.getLogger(__name__)

OWN_KEYS = ("kind", "step", "tokens", NONFINITE)
"""Keys of a record that are logged under other names, or not at all."""


class WandbRun:
    """A W&B run as a destination for records: every call may wait for the network."""

    title = "W&B"

    @classmethod
    def of(
        cls, settings: TrackerSettings, folder: Path, name: str, config: Mapping[str, Any], resume_step: int
    ) -> WandbRun:
        """Return the destination of a run, not yet connected."""
        return cls(settings, folder, name, config, run_id(folder))

    def __init__(
        self, settings: TrackerSettings, folder: Path, name: str, config: Mapping[str, Any], run_id: str
    ) -> None:
        self.settings, self.folder, self.name, self.config, self.id = settings, folder, name, dict(config), run_id
        self._run: Any = None

    def connect(self) -> None:
        """Start or resume the run. Raises whatever wandb raises, after at most `start_s` seconds."""
        wandb = quiet_wandb()
        before = set(self._local())
        try:
            self._run = wandb.init(
                project=self.settings.project,
                entity=self.settings.entity,
                group=self.settings.group,
                tags=list(self.settings.tags),
                name=self.name,
                id=self.id,
                resume="allow",
                dir=str(self.folder),
                config=self.config,
                mode=mode(),
                settings=wandb.Settings(
                    init_timeout=self.settings.start_s,
                    finish_timeout=max(self.settings.finish_s, 0.1),
                    finish_timeout_raises=True,
                    console="off",
                    disable_code=True,
                ),
            )
        except BaseException:
            for left in set(self._local()) - before:  # a failed attempt has logged nothing
                shutil.rmtree(left, ignore_errors=True)
            raise
        if note := self._not_online():
            log.info("%s", note)
        self._run.define_metric(STEP)
        self._run.define_metric(TOKENS)
        self._run.define_metric("*", step_metric=STEP)

    def send(self, record: Record) -> None:
        """Log a record at its step; W&B drops steps before its last one, as after a resume."""
        self._run.log(shown(record), step=record["step"])

    def finish(self) -> None:
        """Flush and close; raises TimeoutError after `finish_s`. wandb's process then keeps running until ours ends."""
        self._run.finish()

    @property
    def place(self) -> tuple[str, str]:
        """W&B entity (user or team) and project of a connected run; the entity is "" offline."""
        return self._run.entity or "", self._run.project

    def _not_online(self) -> str | None:
        """Return where the records go if not to a server, and how to send them; None if the run is online."""
        where = mode()
        if where == "disabled":
            return "W&B is disabled (WANDB_MODE=disabled): it gets no records, metrics.jsonl has them all"
        if where not in ("offline", "dryrun"):
            return None
        why = f"WANDB_MODE={where}" if "WANDB_MODE" in os.environ else "there is no WANDB_API_KEY and no login in netrc"
        folder = Path(self._run.dir).parent
        send = f"wandb sync {shlex.quote(str(folder))}"
        return f"W&B is offline ({why}): its records are in {folder}; send them with: {send}"

    def _local(self) -> list[Path]:
        return list((self.folder / "wandb").glob(f"*run-*-{self.id}"))


def shown(record: Record) -> dict[str, Any]:
    """Return the values of a record to log to W&B: its numbers, and both axes."""
    values = {
        key: value
        for key, value in record.items()
        if key not in OWN_KEYS and value is not None and not isinstance(value, str)
    }
    return {**values, STEP: record["step"], TOKENS: record["tokens"]}


def mode() -> Any:
    """Return the W&B mode: WANDB_MODE if set, else online if there is an API key."""
    return os.environ.get("WANDB_MODE", "online" if has_key() else "offline")


def quiet_wandb() -> Any:
    """Import wandb without console output, leftover folders, or error reports over the network."""
    for variable, value in (("SILENT", "true"), ("DISABLE_GIT", "true"), ("ERROR_REPORTING", "false")):
        os.environ.setdefault(f"WANDB_{variable}", value)
    import wandb
    from wandb.sdk import wandb_settings

    wandb_settings.Settings.read_system_settings = _user_settings
    # wandb's modules create temporary folders for media, which we never log; ranks exit without Python's clean-up.
    for module, *names in (("data_types._private", "MEDIA_TMP"), ("artifacts.artifact", "Artifact", "_TMP_DIR")):
        folder: Any = import_module(f"wandb.sdk.{module}")
        for name in names:
            folder = getattr(folder, name, None)
        if isinstance(folder, tempfile.TemporaryDirectory):
            folder.cleanup()
    return wandb


def _user_settings(settings: Any) -> Any:
    """Return W&B's settings files: the user's own, but none in a folder named `wandb` here, which could name a server
    that gets the API key.
    """
    from wandb.sdk.lib import settings_file

    here = Path(settings.settings_workspace)
    if here.is_file():
        log.warning("%s is not read: set WANDB_BASE_URL and other variables instead", printable(str(here)))
    own = Path(settings.settings_system) if settings.settings_system else None
    return settings_file.SettingsFiles(global_settings=own, local_settings=Path(os.devnull))


def run_id(folder: Path) -> str:
    """Return the W&B run id of a RUN folder, generated once."""
    import uuid

    path = folder / WANDB_ID
    if not path.exists():
        write_text(path, uuid.uuid4().hex[:12] + "\n")
    return path.read_text("utf-8").strip()


def has_key() -> bool:
    """Tell whether there is a W&B API key, in the environment or in netrc."""
    import netrc

    if os.environ.get("WANDB_API_KEY"):
        return True

    try:
        hosts = netrc.netrc().hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return any("wandb" in host for host in hosts)
