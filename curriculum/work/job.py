"""Work in chunks: what a job and its workers are to whoever shares the chunks out, and the sharing in one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from curriculum.work.chunks import Chunk, ChunkFolder
from curriculum.work.progress import Meter


class Worker(Protocol):
    """Does chunks, the same in whichever process it is."""

    def introduction(self) -> dict[str, Any]:
        """Return what it tells of itself before its first chunk: JSON values."""

    def do(self, chunk: Chunk) -> tuple[int, ...]:
        """Do a chunk and write it; return what the job's meter counts."""


class Job(Protocol):
    """An artifact to be made from chunks that stay done."""

    store: ChunkFolder
    chunks: list[Chunk]

    def begin(self) -> list[Chunk]:
        """Make ready what workers need and return the chunks that are missing. One process does, and holds the folder.

        Raises ArtifactError where other work was begun.
        """

    def welcome(self, introduction: Mapping[str, Any], meter: Meter | None) -> None:
        """Keep what a worker tells of itself."""

    def meter(self, missing: Sequence[Chunk]) -> Meter:
        """Return a meter of what is missing."""

    def reused(self) -> object | None:
        """Return the artifact when it is whole and made of the same; ArtifactError when something else is there."""

    def finish(self) -> object:
        """Put the chunks together, publish the artifact, remove the chunks. All chunks must be done."""


def work_here(job: Job, load: Callable[[], Worker]) -> None:
    """Do what is missing of a job in this process, with the worker that `load` makes once the job has begun."""
    with job.store.held():
        missing = job.begin()
        if not missing:
            return
        worker = load()
        with job.meter(missing) as meter:
            job.welcome(worker.introduction(), meter)
            for chunk in missing:
                meter.count(worker.do(chunk))


def said_of_done(chunks: Sequence[Chunk], missing: Sequence[Chunk]) -> str | None:
    """Return a line about the chunks that are done already; None when there is none."""
    done = len(chunks) - len(missing)
    return f"{done} of {len(chunks)} chunks are done already" if done else None
