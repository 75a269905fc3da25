"""`pdpc doctor`: checks on this machine before a run needs them.

    pdpc doctor benchmarks.tasks=[arc_easy] benchmarks.task_paths=[packs/arc]     will these benchmarks run?
    pdpc doctor --faults                                                          fault points for failure drills

The exit code is 1 if a benchmark would fail.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from curriculum.work.printable import printable
from train.evaluation.harness.tasks import BenchmarkSettings
from train.faults import listed


@dataclass(frozen=True)
class DoctorSettings:
    """Settings of `pdpc doctor`."""

    faults: bool = False
    """List the points at which PDPC_FAULT can inject a failure."""
    benchmarks: BenchmarkSettings = field(default_factory=BenchmarkSettings)
    """Tasks to try: each is loaded with its data, and its first question is built."""

    def __post_init__(self) -> None:
        if not self.faults and not self.benchmarks.tasks:
            raise ValueError("nothing to check: give benchmarks.tasks=[...], or use pdpc doctor --faults")


def run(settings: DoctorSettings) -> int:
    """Print one line per finding; return 1 if a benchmark would fail, else 0."""
    if settings.faults:
        print("\n".join(listed()))
    return int(not all([*_packs(settings.benchmarks), *_tasks(settings.benchmarks)]))


def _packs(settings: BenchmarkSettings) -> list[bool]:
    """Verify the checksums of the folders in `task_paths` that have them; return which ones match."""
    from curriculum.artifact.manifest import MANIFEST, verify

    sound = []
    for folder in map(Path, settings.task_paths):
        if not (folder / MANIFEST).is_file():
            continue
        try:
            verify(folder)
        except (ValueError, OSError) as error:
            sound.append(_print(str(folder), error))
        else:
            sound.append(_print(str(folder), "every file matches its checksum"))
    return sound


def _tasks(settings: BenchmarkSettings) -> list[bool]:
    """Try every task within its time limit; return which ones can run."""
    from train.distributed.deadline import Deadline, TooLate
    from train.evaluation.harness.tasks import try_task

    able = []
    for name in settings.tasks:
        try:
            with Deadline().within(settings.task_timeout_s):
                found = try_task(name, settings)
        except (Exception, SystemExit, TooLate) as error:  # a task is third-party code and data
            able.append(_print(name, error))
        else:
            able.append(_print(name, found))
    return able


def _print(name: str, finding: str | BaseException) -> bool:
    if isinstance(finding, str):
        print(printable(f"ok      {name}: {finding}"))
        return True
    kind = "" if isinstance(finding, ValueError) else f"{type(finding).__name__}: "
    print(printable(f"FAILED  {name}: {kind}{' '.join(str(finding).split())}"))
    return False
