"""`pdpc study STUDY.yaml`: run every step of a study that is missing, then write its page."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from curriculum.artifact.files import read_text, reading, write_text
from curriculum.artifact.lock import Lock
from curriculum.artifact.outputs import BYSTANDERS, check_free
from launch.study.file import Study, read_study
from launch.study.plan import show_plan
from launch.study.runner import Runner
from launch.study.settings import StudySettings
from launch.study.steps import Step, steps_of

REGISTERED = "study.json"
"""File with what was decided before the first run."""
LOCK = ".lock"


def run(settings: StudySettings) -> int:
    """Run the missing steps and write the page; return 0, or the exit code of the first step that failed.

    Raises ValueError before anything starts if the file or the settings of any step are invalid, or if the study was
    started with another question, primary measure or other arms.
    """
    study = read_study(Path(settings.file))
    folder = settings.folder
    steps = steps_of(study, folder, composed if settings.task_code else without_code, width)
    if settings.plan:
        show_plan(study, steps, folder, settings.tokens_per_s, room())
        return 0
    names = {step.output.relative_to(folder).parts[0] for step in steps.all}
    check_free(
        "output",
        folder,
        (*names, "done", "logs", REGISTERED, LOCK, "study.html", "results.json", ".*.tmp-*", "*.chunks", *BYSTANDERS),
    )
    folder.mkdir(parents=True, exist_ok=True)
    with Lock(folder / LOCK, f"study {folder}"):
        register(study, folder)
        code = Runner(folder, steps.all, room(), settings.at_once, command).run()
        from launch.study.page import headline, write_page
        from launch.study.results import results_of

        results = results_of(study, steps)
        path = write_page(study, results, folder)
    print(f"{headline(study, results)}\nThe page is {path}")
    return code


def composed(verb: str, words: Sequence[str]) -> Any:
    """Return the settings of a verb. Raises ValueError if they are invalid."""
    from launch.cli import VERBS
    from train.config.compose import compose

    schema, _, choices = VERBS[verb].load()
    return compose(verb, schema, words, choices)


def without_code(verb: str, words: Sequence[str]) -> Any:
    """Return the settings of a verb. Raises ValueError also for task files whose code would run.

    The user has named a study, which may be a stranger's: it is data, as a RUN's config.json is.
    """
    settings = composed(verb, words)
    if verb == "train" and settings.benchmarks.task_paths and settings.benchmarks.task_code:
        raise ValueError(
            f"benchmarks.task_paths={settings.benchmarks.task_paths} may refer to Python code: add task_code=true to "
            "the command if you trust it, or benchmarks.task_code: false to the study"
        )
    return settings


def width(settings: Any) -> int:
    """Return how many GPUs, or CPUs if there are none, a training run keeps busy."""
    from launch.cluster.supervisor import gpus

    processes = settings.processes or max(1, gpus())
    return processes if gpus() else processes * (settings.threads or 1)


def room() -> int:
    """Return how many GPUs, or CPUs if there are none, there are to share out."""
    from launch.cluster.supervisor import gpus

    return gpus() or len(os.sched_getaffinity(0))


def command(step: Step) -> list[str]:
    """Return the command line of a step."""
    return [sys.executable, "-m", "launch.cli", step.verb, *step.words]


def register(study: Study, folder: Path) -> None:
    """Write what was decided before the runs. Raises ValueError if it differs from what was written then."""
    decided = {
        "question": study.question,
        "primary": vars(study.primary),
        "baseline": study.baseline,
        "arms": {name: dict(own) for name, own in study.arms.items()},
        "schedules": {name: dict(own) for name, own in study.schedules.items()},
    }
    path = folder / REGISTERED
    written = {**decided, "seeds": study.seeds, "file": study.digest}
    if not path.exists():
        write_text(path, json.dumps(written, indent=1) + "\n")
        return
    with reading(path, "restore it, or choose another output"):
        before = dict(json.loads(read_text(path)))
        earlier = [int(seed) for seed in before.get("seeds", [])]
    decided = json.loads(json.dumps(decided))  # as it is read back: keys are text
    if changed := [key for key, value in decided.items() if before.get(key) != value]:
        raise ValueError(
            f"{path} was written before the runs with another {changed[0]}: a question is not changed after its "
            "results are known; choose another output (seeds may be added)"
        )
    if lacking := sorted(set(earlier) - set(study.seeds)):
        raise ValueError(
            f"{path} was written before the runs with the seeds {earlier}, of which {lacking} are left out now: seeds "
            "may be added, but none is dropped after its results are known; choose another output"
        )
    if set(earlier) != set(study.seeds):
        write_text(path, json.dumps({**before, "seeds": study.seeds}, indent=1) + "\n")
