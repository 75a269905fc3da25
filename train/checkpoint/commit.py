"""Atomic publication of a checkpoint, with the same outcome on every rank.

    1. rank 0 creates `step_N.tmp-<random>`; every rank reports how much it will write, and free space is checked
    2. every rank writes its file, hashing it on the way, and syncs it
    3. the digests are gathered. This is the barrier: no rank continues before every file is on disk
    4. rank 0 writes and syncs the manifest and the folder, renames the folder and syncs its parent

A failure on one rank is raised on all, and rank 0 removes the temporary folder: the previous checkpoint stays.
A killed process leaves a folder that readers ignore and the next attempt removes.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from curriculum.artifact.create import write_manifest
from curriculum.artifact.files import ArtifactError, FileEntry, fingerprint_of, sync
from curriculum.artifact.manifest import Manifest, open_manifest
from models.lora import facts_of
from train.checkpoint.find import KIND, candidates, folder_of
from train.checkpoint.layout import header_of, rank_file
from train.checkpoint.records import seal_records
from train.checkpoint.retention import number_of, temporary_of
from train.checkpoint.space import check_space, free_bytes
from train.checkpoint.write import NotFiniteError, write_shard
from train.config.packages import versions
from train.distributed.collectives import Collectives
from train.distributed.out_of_memory import OutOfMemory, first_line, says_no_memory
from train.distributed.world import World
from train.engine import Engine
from train.faults import fault

log = logging.getLogger(__name__)

REMEDIES = {
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free some of your quota",
    errno.EFBIG: "raise the file size limit (ulimit -f)",
}
"""Remedy by errno."""


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, for a reason other than the disk or non-finite values."""


def save(
    checkpoints: Path,
    engine: Engine,
    world: World,
    *,
    step: int,
    cursor: int,
    consumed_hash: str,
    tokens: int,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    hooks: Mapping[str, Mapping[str, Any]] | None = None,
) -> Path:
    """Write the checkpoint after `step` steps; return its folder. Collective: same outcome on every rank.

    `checkpoints` is in the RUN folder, whose records are sealed in the manifest: sync them first. `hooks`: state by
    name. Raises OSError (with the disk's errno), NotFiniteError or CheckpointError, the same on every rank; then the
    previous checkpoint is intact, and this one's folder exists only if it is complete (if syncing the rename failed).
    Memory: a few buffers. Requires the run's lock: nobody else writes here.
    """
    folder = folder_of(checkpoints, step)
    if world.same(int(folder.is_dir())):
        return _existing(folder, cursor, consumed_hash)
    ranks = _AllRanks(Collectives(world), folder)
    header, size = b"", 0

    def begin() -> dict[str, Any]:
        nonlocal header, size
        fault("checkpoint.before_write")
        header, size = header_of(engine.outline())
        name = None
        if world.first:
            make_folder(checkpoints)
            temporary = temporary_of(folder)
            temporary.mkdir()
            ranks.temporary = temporary
            name = temporary.name
        return {"name": name, "size": size, "free": free_bytes(checkpoints)}

    def write() -> dict[str, Any]:
        check_space(folder, [rank["size"] for rank in begun], [rank["free"] for rank in begun])
        entry = write_shard(temporary / rank_file(world.rank), header, size, engine.fragments())
        return asdict(entry)

    def commit() -> None:
        if not world.first:
            return
        files = {rank_file(rank): FileEntry(**entry) for rank, entry in enumerate(written)}
        _check_visible(temporary, files)
        fault("checkpoint.before_manifest")
        facts = {
            "step": step,
            "cursor": cursor,
            "consumed_hash": consumed_hash,
            "tokens": tokens,
            "updates": engine.updates(),
            "number": 1 + max((number_of(found) for found in candidates(checkpoints)), default=0),
            "world_size": world.size,
            "zero_stage": engine.config["zero_optimization"]["stage"],
            "model": asdict(replace(engine.decoder.config, attention="auto")),  # the reader may be on another machine
            **({} if engine.decoder.lora is None else {"lora": facts_of(engine.decoder.lora)}),
            "hooks": {name: dict(state) for name, state in (hooks or {}).items()},
            "records": seal_records(checkpoints.parent),
            "versions": versions(),
        }
        read = {**inputs, "config": fingerprint_of(dict(config))}
        write_manifest(temporary, KIND, config=config, inputs=read, facts=facts, known=files)
        fault("checkpoint.after_manifest")
        sync(temporary)
        fault("checkpoint.before_rename")
        os.rename(temporary, folder)
        fault("checkpoint.after_rename")
        sync(checkpoints)

    begun = ranks.run("begin", begin)
    temporary = checkpoints / begun[0]["name"]
    written = ranks.run("write", write)
    ranks.run("commit", commit)
    return folder


class _AllRanks:
    """Runs the steps on all ranks: a failure on one is raised on all, after rank 0 has removed the temporary folder."""

    def __init__(self, exchange: Collectives, folder: Path) -> None:
        self.temporary: Path | None = None
        self._exchange = exchange
        self._folder = folder

    def run(self, what: str, action: Callable[[], Any]) -> list[Any]:
        """Run an action on every rank; return the results by rank once all are done."""
        value: Any = None
        problem: Exception | None = None
        try:
            value = action()
        except Exception as error:
            problem = error
        note = {"value": value, "problem": None if problem is None else _problem(problem)}
        notes = self._exchange.gather(f"checkpoint: {what}", note)
        failed = [(rank, note["problem"]) for rank, note in enumerate(notes) if note["problem"]]
        if failed:
            if self.temporary is not None:  # set only on rank 0; every rank has stopped writing
                shutil.rmtree(self.temporary, ignore_errors=True)
            raise self._error(*failed[0]) from problem
        return [note["value"] for note in notes]

    def _error(self, rank: int, problem: Mapping[str, Any]) -> Exception:
        start = f"checkpoint {self._folder} could not be written"
        cause = f"{problem['text']}, on rank {rank}"
        if problem["kind"] == "os":
            number = problem["errno"] or errno.EIO
            remedy = REMEDIES.get(number, "check the disk")
            return OSError(number, f"{start} ({cause}): {remedy} and run again; the previous checkpoint is intact")
        if problem["kind"] == "finite":
            return NotFiniteError(
                f"{start}: {cause}; the previous checkpoint is intact. The weights are corrupted: find the step that "
                "caused it in metrics.jsonl, and resume from an older checkpoint"
            )
        if problem["kind"] == "memory":
            return OutOfMemory(f"checkpoint {self._folder}; the previous one is intact", cause)
        return CheckpointError(f"{start} ({cause}); the previous checkpoint is intact")


def _problem(error: Exception) -> dict[str, Any]:
    if says_no_memory(error):
        return {"kind": "memory", "errno": None, "text": first_line(error)}
    kind = "os" if isinstance(error, OSError) else "finite" if isinstance(error, NotFiniteError) else "other"
    text = str(error) if kind == "finite" else f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return {"kind": kind, "errno": getattr(error, "errno", None), "text": text}


def make_folder(folder: Path) -> None:
    """Create a folder and its parents, durably (they survive a power loss)."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync(folder.parent)


def _check_visible(temporary: Path, files: Mapping[str, FileEntry]) -> None:
    """Raise OSError unless rank 0 sees the file of every rank."""
    for name, entry in files.items():
        path = temporary / name
        if not path.is_file() or path.stat().st_size != entry.bytes:
            raise OSError(
                errno.ENOENT,
                f"{path} was written by another rank and is not visible on rank 0: put the RUN folder on a file system "
                "shared by all nodes",
            )


def _existing(folder: Path, cursor: int, consumed_hash: str) -> Path:
    """Return the existing checkpoint of this step, which the run resumed from. Raises ArtifactError if it differs."""
    manifest: Manifest = open_manifest(folder, KIND)
    found = manifest.facts.get("cursor"), manifest.facts.get("consumed_hash")
    if found != (cursor, consumed_hash):
        raise ArtifactError(
            f"{folder} already exists, after {found[0]} samples with hash {found[1]} instead of {cursor} with "
            f"{consumed_hash}: it belongs to another run; use another output"
        )
    log.info("checkpoint %s already exists", folder)
    return folder
