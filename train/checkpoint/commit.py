"""How a checkpoint is published: whole or not at all, on every rank alike.

    1. rank 0 makes `step_N.tmp-<random>`; every rank says how much it will write; is there room?
    2. every rank writes its file, hashing it on the way, and syncs it
    3. the digests are gathered: that is the barrier. Nobody goes on before every file is on the disk
    4. rank 0 writes and syncs the manifest and the folder, renames the folder and syncs its parent

What fails on one rank is raised by all, and rank 0 removes the temporary folder: the checkpoint before it stays.
A killed process leaves a folder that no reader takes for a checkpoint; the next life removes it.
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

from curriculum.artifact.manifest import (
    ArtifactError,
    FileEntry,
    Manifest,
    fingerprint_of,
    open_manifest,
    sync,
    write_manifest,
)
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

MENDS = {
    errno.ENOSPC: "free space",
    errno.EDQUOT: "free some of your quota",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
}
"""What helps, by the error that the disk gives."""


class CheckpointError(RuntimeError):
    """A checkpoint could not be made, for a reason that is neither the disk's nor a value that is not finite."""


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
    """Write the checkpoint after `step` steps; return its folder. Every rank calls this, and all end alike.

    `checkpoints` lies in the RUN folder, whose records it vouches for: sync them before. `hooks`: state by name.
    Raises OSError (with the disk's errno), NotFiniteError or CheckpointError, the same on every rank; then the
    checkpoint before it is still there, and nothing has this one's name unless it is whole (the rename itself could not
    be synced). Memory: a few buffers. Needs the run's lock: nobody else writes here.
    """
    folder = folder_of(checkpoints, step)
    if world.same(int(folder.is_dir())):
        return _there_already(folder, cursor, consumed_hash)
    meeting = _Meeting(Collectives(world), folder)
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
            meeting.temporary = temporary
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
            "model": asdict(replace(engine.decoder.config, attention="auto")),  # a reader may be another machine
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

    begun = meeting.all_do("begin", begin)
    temporary = checkpoints / begun[0]["name"]
    written = meeting.all_do("write", write)
    meeting.all_do("commit", commit)
    return folder


class _Meeting:
    """What the ranks do together: a failure of one is raised by all, after which rank 0 removes what was written."""

    def __init__(self, exchange: Collectives, folder: Path) -> None:
        self.temporary: Path | None = None
        self._exchange = exchange
        self._folder = folder

    def all_do(self, what: str, action: Callable[[], Any]) -> list[Any]:
        """Do something on every rank; return what each brought, by rank, once all have done it."""
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
            if self.temporary is not None:  # rank 0's alone; every rank has stopped writing
                shutil.rmtree(self.temporary, ignore_errors=True)
            raise self._error(*failed[0]) from problem
        return [note["value"] for note in notes]

    def _error(self, rank: int, problem: Mapping[str, Any]) -> Exception:
        start = f"checkpoint {self._folder} could not be written"
        said = f"{problem['text']}, on rank {rank}"
        if problem["kind"] == "os":
            number = problem["errno"] or errno.EIO
            mend = MENDS.get(number, "see to the disk")
            return OSError(number, f"{start} ({said}): {mend} and run again; the checkpoint before it stays")
        if problem["kind"] == "finite":
            return NotFiniteError(
                f"{start}: {said}; the checkpoint before it stays. The weights are spoiled: find the step that did it "
                "in metrics.jsonl, and go on from an older checkpoint"
            )
        if problem["kind"] == "memory":
            return OutOfMemory(f"checkpoint {self._folder}; the one before it stays", said)
        return CheckpointError(f"{start} ({said}); the checkpoint before it stays")


def _problem(error: Exception) -> dict[str, Any]:
    if says_no_memory(error):
        return {"kind": "memory", "errno": None, "text": first_line(error)}
    kind = "os" if isinstance(error, OSError) else "finite" if isinstance(error, NotFiniteError) else "other"
    text = str(error) if kind == "finite" else f"{type(error).__name__}: {error}"
    if isinstance(error, OSError) and error.strerror:
        text = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return {"kind": kind, "errno": getattr(error, "errno", None), "text": text}


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, so that they outlive a power loss."""
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
                f"{path} was written by another rank and is not to be seen here: the RUN folder must lie on a file "
                "system that all nodes share",
            )


def _there_already(folder: Path, cursor: int, consumed_hash: str) -> Path:
    """Return the checkpoint of this very step that the run went on from. Raises ArtifactError when it is another."""
    manifest: Manifest = open_manifest(folder, KIND)
    found = manifest.facts.get("cursor"), manifest.facts.get("consumed_hash")
    if found != (cursor, consumed_hash):
        raise ArtifactError(
            f"{folder} is there already, after {found[0]} samples of hash {found[1]}, not {cursor} of "
            f"{consumed_hash}: it is another run's; give another output"
        )
    log.info("checkpoint %s is there already", folder)
    return folder
