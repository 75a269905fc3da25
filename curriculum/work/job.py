"""Work in chunks: the interface of a job and its workers to an executor, and execution in a single process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from curriculum.work.chunks import Chunk, ChunkFolder
from curriculum.work.progress import Meter


class Worker(Protocol):
    """Processes chunks, with the same result in any process."""

    def introduction(self) -> dict[str, Any]:
        """Return what the worker reports about itself before its first chunk: JSON values."""

    def do(self, chunk: Chunk) -> tuple[int, ...]:
        """Process and write a chunk; return what the job's meter counts."""


class Job(Protocol):
    """An artifact to be written from chunks, which are kept once done."""

    store: ChunkFolder
    chunks: list[Chunk]

    def begin(self) -> list[Chunk]:
        """Prepare what workers need and return the missing chunks. Called by one process, which holds the folder.

        Raises ArtifactError if the folder holds other work.
        """

    def on_worker_ready(self, introduction: Mapping[str, Any], meter: Meter | None) -> None:
        """Store what a worker reports about itself."""

    def meter(self, missing: Sequence[Chunk]) -> Meter:
        """Return a meter for the missing chunks."""

    def reused(self) -> object | None:
        """Return the artifact if it is complete and up to date; raise ArtifactError if something else is there."""

    def finish(self) -> object:
        """Assemble the chunks, publish the artifact, remove the chunks. All chunks must be done."""


def work_here(job: Job, load: Callable[[], Worker]) -> None:
    """Do a job's missing chunks in this process, with the worker that `load` returns once the job has begun."""
    with job.store.held():
        missing = job.begin()
        if not missing:
            return
        worker = load()
        with job.meter(missing) as meter:
            job.on_worker_ready(worker.introduction(), meter)
            for chunk in missing:
                meter.count(worker.do(chunk))


def done_note(chunks: Sequence[Chunk], missing: Sequence[Chunk]) -> str | None:
    """Return a note about chunks that are already done; None if there are none."""
    done = len(chunks) - len(missing)
    return f"{done} of {len(chunks)} chunks are already done" if done else None
