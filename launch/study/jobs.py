"""A study on a Slurm cluster: a job per missing step, after the jobs of the steps that it needs, and one for the page.

A job runs `pdpc study FILE step=NAME`, so that a step leaves the same log and the same mark as on one machine. Jobs
that are still queued or running, by `jobs.json` and `squeue`, are not submitted again.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from curriculum.artifact.files import reading, write_text
from launch.cluster.slurm import Slurm, check_folder
from launch.study.runner import is_done
from launch.study.steps import Step
from train.config.typed import quoted

PAGE = "page"
"""Name of the step that writes the page."""
SCRIPTS = "slurm"
JOBS = "jobs.json"
ON_GPUS = ("train", "score")


@dataclass(frozen=True)
class Job:
    """A job to submit."""

    name: str
    path: Path
    """Of its batch script."""
    script: str
    needs: list[str]
    condition: str
    """`afterok` or `afterany`: how the jobs it needs must end."""


def jobs_of(where: Slurm, file: Path, steps: Sequence[Step], folder: Path, own_code: bool = False) -> list[Job]:
    """Return the jobs for the steps that are missing, and for the page, in an order in which they can be submitted.

    The page is written however the runs end, from those that have finished. Raises ValueError for a path that sbatch
    does not take.
    """
    scripts = (folder / SCRIPTS).absolute()
    check_folder("output", scripts)
    if where.container is not None:
        raise ValueError("cluster.container is not supported by pdpc study: its jobs run in this Python environment")
    missing = [step for step in steps if not is_done(folder, step)]

    def job(name: str, gpus: int, needs: Sequence[str], condition: str) -> Job:
        path = scripts / f"{name}.sbatch"
        words = [f"file={quoted(file.absolute())}", f"output={quoted(folder)}", f"step={name}"]
        words += ["own_code=true"] if own_code else []
        command = [sys.executable, "-m", "launch.cli", "study", *words]
        return Job(name, path, where.job(command, path, gpus), list(needs), condition)

    jobs = []
    for step in missing:
        gpus = 0
        if step.verb in ON_GPUS and where.gpus_per_node is not None:
            gpus = where.gpus_per_node if step.width is None else step.width
        jobs.append(job(step.name, gpus, step.needs, "afterok"))
    return [*jobs, job(PAGE, 0, [one.name for one in jobs], "afterany")]


def show(jobs: Sequence[Job]) -> None:
    """Print every script, and the command that would submit it with the names of jobs in place of their numbers."""
    names = {job.name for job in jobs}
    for job in jobs:
        print(f"{job.script}\n# {' '.join(_command(job, [need for need in job.needs if need in names]))}\n")


def submit(jobs: Sequence[Job], folder: Path) -> None:
    """Submit the jobs that are not queued or running. Raises ValueError if sbatch or squeue is missing or fails."""
    known = folder / SCRIPTS / JOBS
    numbers: dict[str, str] = {}
    if known.is_file():
        with reading(known, "remove it if none of the study's jobs is queued or running"):
            before = {str(name): str(number) for name, number in json.loads(known.read_text("utf-8")).items()}
        queued = _queued()
        numbers = {name: number for name, number in before.items() if number in queued}
    new = [job for job in jobs if job.name not in numbers and job.name != PAGE]
    for job in jobs:
        if job.name in numbers and not (job.name == PAGE and new):
            print(f"{job.name}: job {numbers[job.name]} is queued or running")
            continue
        job.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(job.path, job.script)
        needs = [numbers[need] for need in job.needs if need in numbers]
        numbers[job.name] = _output(_command(job, needs)).partition(";")[0]
        write_text(known, json.dumps(numbers, indent=1) + "\n")
        print(f"{job.name}: submitted job {numbers[job.name]}" + (f" after {', '.join(needs)}" if needs else ""))


def _command(job: Job, needs: Sequence[str]) -> list[str]:
    after = [f"--dependency={job.condition}:{':'.join(needs)}", "--kill-on-invalid-dep=yes"] if needs else []
    return ["sbatch", "--parsable", *after, str(job.path)]


def _queued() -> set[str]:
    """Return the numbers of this user's jobs that are queued or running."""
    return set(_output(["squeue", "--noheader", f"--user={os.getuid()}", "--format=%A"]).split())


def _output(command: Sequence[str]) -> str:
    """Return what a program of Slurm prints."""
    if shutil.which(command[0]) is None:
        raise ValueError(
            f"{command[0]} is not installed here: run this on a machine that has it, or add --dry-run to only print"
        )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ValueError(f"{' '.join(command)} failed ({' '.join(done.stderr.split())}): run the same command again")
    return done.stdout.strip()
