"""`pdpc study STUDY.yaml`: run every step of a study that is missing, then write its page."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from curriculum.artifact.files import read_text, reading, write_text
from curriculum.artifact.lock import Lock
from curriculum.artifact.outputs import BYSTANDERS, check_free
from curriculum.preference.own import is_own, with_own
from curriculum.work.console import PlainConsole
from curriculum.work.cpus import threads_per_process, usable_cpus
from launch.cluster.machines import Cluster, Local
from launch.cluster.slurm import Slurm
from launch.study.file import Study, read_study
from launch.study.jobs import PAGE, SCRIPTS, jobs_of, show, submit
from launch.study.plan import show_plan
from launch.study.progress import StudyProgress
from launch.study.runner import Runner, is_done
from launch.study.settings import StudySettings
from launch.study.steps import Step, Steps, steps_of
from train.distributed.exit_codes import LEFT

REGISTERED = "study.json"
"""File with what was decided before the first run."""
LOCK = ".lock"
OWN = ("done", "logs", SCRIPTS, REGISTERED, LOCK, "study.html", "results.json", ".*.tmp-*", "*.chunks")
"""What a study writes into its output besides the outputs of its steps."""


def run(settings: StudySettings) -> int:
    """Run the missing steps and write the page; return 0, or the exit code of the first step that failed.

    With cluster=slurm, queue a job for each of them instead. Raises ValueError before anything starts if the file or
    the settings of any step are invalid, or if the study was started with another question, primary measure or other
    arms.
    """
    study = read_study(Path(settings.file))
    folder, where = settings.folder, settings.cluster
    compose = with_code if settings.own_code else without_code
    steps = steps_of(study, folder, compose, partial(gpus_of, where) if isinstance(where, Slurm) else width)
    if settings.plan:
        places = len(steps.runs) * where.processes if isinstance(where, Slurm) else room(where)
        show_plan(study, steps, folder, settings.tokens_per_s, places)
        return 0
    names = {step.output.relative_to(folder).parts[0] for step in steps.all}
    check_free("output", folder, (*names, *OWN, *BYSTANDERS))
    if settings.step is not None:
        return _run_step(study, steps, folder, settings.step, room(where))
    if isinstance(where, Slurm) and settings.dry_run:
        show(jobs_of(where, Path(settings.file), steps.all, folder, settings.own_code))
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    with Lock(folder / LOCK, f"study {folder}"):
        register(study, folder)
        if isinstance(where, Slurm):
            submit(jobs_of(where, Path(settings.file), steps.all, folder, settings.own_code), folder)
            return 0
        progress = StudyProgress(PlainConsole(stderr=True), steps)
        code = Runner(folder, steps.all, room(where), settings.at_once, command, progress).run()
        if code not in LEFT:
            _write_page(study, steps, folder)
    return code


def _run_step(study: Study, steps: Steps, folder: Path, name: str, places: int | list[str]) -> int:
    """Run one step if it is missing, or write the page; return its exit code.

    Raises ValueError if there is no such step, or if a step that it needs has not been done.
    """
    if name == PAGE:
        _write_page(study, steps, folder)
        return 0
    by_name = {step.name: step for step in steps.all}
    if name not in by_name:
        raise ValueError(f"step={name} is not a step of this study: use {PAGE}, {', '.join(by_name)}")
    if waiting := [need for need in by_name[name].needs if not is_done(folder, by_name[need])]:
        raise ValueError(f"step={name} needs {', '.join(waiting)}: run that first")
    with Lock(folder / "done" / f".{name}.lock", f"step {name} of study {folder}"):
        return Runner(folder, [replace(by_name[name], needs=[])], places, None, command).run()


def _write_page(study: Study, steps: Steps, folder: Path) -> None:
    from launch.study.page import headline, write_page
    from launch.study.results import results_of

    results = results_of(study, steps)
    path = write_page(study, results, folder)
    print(f"{headline(study, results)}\nThe page is {path}")


def composed(verb: str, words: Sequence[str]) -> Any:
    """Return the settings of a verb. Raises ValueError if they are invalid."""
    from launch.cli import VERBS
    from train.config.compose import compose

    schema, _, choices = VERBS[verb].load()
    return compose(verb, schema, words, choices)


def with_code(verb: str, words: Sequence[str]) -> Any:
    """Return the settings of a verb, which may name a preference of the user's own. Raises ValueError."""
    from launch.cli import VERBS
    from train.config.compose import compose
    from train.config.groups import options_of

    schema, _, choices = VERBS[verb].load()
    if "preference" in choices:
        words, choices["preference"] = with_own(words, choices["preference"], options_of("preference"))
    return compose(verb, schema, words, choices)


def without_code(verb: str, words: Sequence[str]) -> Any:
    """Return the settings of a verb. Raises ValueError also for task files whose code would run.

    The user has named a study, which may be a stranger's: it is data, as a RUN's config.json is.
    """
    for word in words:
        key, _, value = word.partition("=")
        if key == "preference" and is_own(value):
            raise ValueError(f"{word} is Python code: add own_code=true to the command if you trust it")
    settings = composed(verb, words)
    if verb == "train" and settings.benchmarks.task_paths and settings.benchmarks.task_code:
        raise ValueError(
            f"benchmarks.task_paths={settings.benchmarks.task_paths} may refer to Python code: add own_code=true to "
            "the command if you trust it, or benchmarks.task_code: false to the study"
        )
    return settings


def width(settings: Any) -> int:
    """Return how many GPUs, or CPUs if there are none, a training run keeps busy."""
    from launch.cluster.supervisor import gpus

    processes = settings.processes or max(1, gpus())
    return processes if gpus() else processes * threads_per_process(processes, settings.threads)


def gpus_of(where: Slurm, settings: Any) -> int:
    """Return how many GPUs a training run asks Slurm for. Raises ValueError if it is given too little time to save."""
    where.check_grace(settings.grace_s)
    return int(settings.processes or where.processes)


def room(where: Cluster) -> int | list[str]:
    """Return the GPUs, or the number of CPUs if there are none, to share out.

    Raises ValueError for too few GPUs, and for several that have no numbers, by which runs are kept apart.
    """
    from launch.cluster.supervisor import DEVICES, devices

    found = devices()
    most = where.gpus_per_node if isinstance(where, Local) and where.gpus_per_node else len(found)
    if most > len(found):
        raise ValueError(f"cluster.gpus_per_node={most}, but this machine has {len(found)}: lower it, or use null")
    if most > 1 and not all(one.isdecimal() for one in found):
        raise ValueError(f"{DEVICES}={','.join(found)}: runs are kept on different GPUs by number: give their numbers")
    return found[:most] or usable_cpus()


def command(step: Step) -> list[str]:
    """Return the command line of a step."""
    return [sys.executable, "-m", "launch.cli", step.verb, *step.words]


def _fewer(study: Study, schedule: str) -> dict[str, Any]:
    """Return the arms of a schedule that not all arms run with."""
    chosen = study.arms_of[schedule]
    return {"arms": chosen} if len(chosen) < len(study.arms) else {}


def register(study: Study, folder: Path) -> None:
    """Write what was decided before the runs. Raises ValueError if it differs from what was written then."""
    decided = {
        "question": study.question,
        "primary": vars(study.primary),
        "baseline": study.baseline,
        "arms": {name: dict(own) for name, own in study.arms.items()},
        "schedules": {name: {**own, **_fewer(study, name)} for name, own in study.schedules.items()},
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
