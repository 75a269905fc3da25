"""`pdpc prepare`: tokenize text into TOKENS, on one machine or many.

    pdpc prepare 'input.paths=[text]' output=tokens                                      processes on this machine
    pdpc prepare engine=deepspeed processes=2 'input.paths=[text]' ...                   ranks on this machine
    deepspeed --hostfile hosts --module launch.rank prepare 'input.paths=[text]' ...     ranks on many machines
    pdpc prepare engine=ray 'input.paths=[text]' ...                                     actors on a Ray cluster

Finished chunks are kept: run the same command again to resume, with any engine and any number of processes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from curriculum.tokens.encode import one_thread
from curriculum.tokens.job import TextJob, TextWorker
from curriculum.tokens.settings import PrepareSettings
from curriculum.work.cpus import usable_cpus
from launch.executors.choice import carry_out
from launch.executors.task import check_engine
from train.faults import arm, fault


@dataclass(frozen=True)
class SharedPrepareSettings(PrepareSettings):
    """Settings of `pdpc prepare`: the contents of TOKENS, and the processes that write them."""

    engine: str = "local"
    """local (processes on this machine), deepspeed (ranks) or ray (actors)."""
    processes: int | None = None
    """Number of processes, ranks or actors; null: one per usable CPU. Does not affect the artifact."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_engine(self.engine, self.processes)


class PrepareTask:
    """`pdpc prepare` as a task for the executors. `tokenizer`: fingerprint of an existing tokenizer, if known."""

    verb, threads, on_gpu, memory_hint = "prepare", 1, False, "processes"

    def __init__(self, settings: SharedPrepareSettings, tokenizer: str | None = None) -> None:
        self._settings, self._tokenizer = settings, tokenizer
        self.output, self.processes = Path(os.path.expanduser(settings.output)), settings.processes

    def open(self) -> TextJob:
        """Open the text."""
        return TextJob(self._settings, tokenizer=self._tokenizer, mark=fault)

    def load(self, job: TextJob, number: int) -> TextWorker:
        """Open the tokenizer saved next to the chunks."""
        return TextWorker(job)

    def computing(self) -> AbstractContextManager[None]:
        """Keep the tokenizer from starting threads inside the block."""
        return one_thread()

    def usual_processes(self) -> int:
        """Return one process per core."""
        return usable_cpus()


def run(settings: SharedPrepareSettings, overrides: Sequence[str] = ()) -> Path | int:
    """Write TOKENS, or reuse existing ones; return their folder, or the ranks' exit code."""
    arm()
    job = TextJob(settings, mark=fault)
    if job.reused() is None and (
        code := carry_out(PrepareTask(settings, job.tokenizer), job, settings.engine, overrides)
    ):
        return code
    return job.folder
