"""Will the run's benchmarks run?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from launch.doctor.check import Finding, Subject, failure, ok, refused


def packs(subject: Subject) -> Iterator[Finding]:
    """Verify the checksums of the folders in `task_paths` that have them."""
    from curriculum.artifact.manifest import MANIFEST, verify

    for folder in map(Path, subject.settings.benchmarks.task_paths):
        if not (folder / MANIFEST).is_file():
            continue
        try:
            verify(folder)
        except (ValueError, OSError) as error:
            yield refused(error, str(folder))
        else:
            yield ok("every file matches its checksum", str(folder))


def tasks(subject: Subject) -> Iterator[Finding]:
    """Load every task with its data and build its first question, each within its time limit."""
    from train.distributed.deadline import Deadline, TooLate
    from train.evaluation.harness.tasks import try_task

    settings = subject.settings.benchmarks
    for name in settings.tasks:
        try:
            with Deadline().within(settings.task_timeout_s):
                yield ok(try_task(name, settings), name)
        except ValueError as error:
            yield refused(error, name)
        except TooLate as error:
            yield failure(str(error), "raise benchmarks.task_timeout_s, or leave the task out", name)
        except (Exception, SystemExit) as error:  # a task is third-party code and data
            what = f"{type(error).__name__}: {' '.join(str(error).split())}"
            yield failure(what, "fix its task file or its data, or leave the task out of benchmarks.tasks", name)
