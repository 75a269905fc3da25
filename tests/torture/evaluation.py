"""A benchmark raises, crashes, hangs, runs out of memory or loses its data, at a random stage on a random rank (T20).

Passed: the run ends with the weights of a healthy run, bit for bit; its record of that stage names the task under
stage/failed, and its other stages match the healthy run; a task that ended the process is skipped by the next launch;
once the task is fixed, `pdpc evaluate stages=failed` gives the healthy run's record and answers, to 1e-6.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.torture.campaign import Tally, case_seeds
from tests.torture.forks import HARNESS, Forks, served
from tests.torture.forks import train as rank_of
from tests.torture.runs import MEASURED, PATIENCE_S, Ending, Material, forget
from train.evaluation.answers import read_answers
from train.records.layout import EVALUATIONS

FULL = 50
SOFT = ("raises", "no memory", "leaves", "sleeps", "loops")
"""Faults of the task's code that the process survives."""
HARD = ("exits", "is killed", "segfaults", "aborts")
"""Faults that end the process of one rank."""
DATA = ("gone", "torn", "shorter", "empty")
"""Changes of the task's data file between the run's start and the stage."""
PLACES = ("question", "answer")
"""Where the task's code fails: when a question is built, or when its answer is scored."""
TIMEOUT_S = 8.0
STAGES = 3
CODE = """
import ctypes, os, signal, sys, time

def misbehave(place):
    kind, _, at = os.environ.get("PDPC_MISDEED", "").partition("@")
    if at != place:
        return
    if kind == "raises":
        raise KeyError("a bug in the task")
    if kind == "no memory":
        raise MemoryError("in the task")
    if kind == "leaves":
        sys.exit(3)
    if kind == "exits":
        os._exit(9)
    if kind == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "segfaults":
        ctypes.string_at(0)
    if kind == "aborts":
        os.abort()
    while kind == "sleeps":
        time.sleep(60)
    while kind == "loops":
        pass

def question(doc):
    misbehave("question")
    return doc["context"]

def answer(doc, results):
    misbehave("answer")
    return {"acc": results[doc["answer"]][0]}  # in nats: different for any two models
"""


@dataclass(frozen=True)
class Healthy:
    """The end of a run whose tasks work."""

    ending: Ending
    stages: list[dict[str, Any]]
    """Records of the stages, without MEASURED metrics."""
    answers: dict[str, Any]
    """Answers of all stages, by file and measure."""


def run(count: int, seed: int, work: Path) -> Tally:
    """Make a task fail `count` times."""
    tally, struck = Tally("evaluation", seed=seed), dict[str, int]()
    plain = Material.make(work / "material", STAGES)
    write_tasks(work / "tasks")
    words = ["benchmarks.tasks=[first,faulty,last]", f"benchmarks.task_paths=[{work / 'tasks'}]"]
    words += ["benchmarks.batch_size=8", f"benchmarks.task_timeout_s={TIMEOUT_S}", "checkpoints.keep_last=20"]
    material = replace(plain, words=(*plain.words, *words))
    with served() as forks:
        forks.load(*HARNESS)
        healthy: dict[int, Healthy] = {}
        for case in case_seeds(seed, count):
            size = int(np.random.default_rng(case).integers(1, 3))
            if size not in healthy:
                healthy[size] = _healthy(forks, plain, material, work, size)
            name, problem = one_run(forks, material, healthy[size], work, case, size)
            tally.add(case, problem and f"{name}: {problem}")
            kind = name.partition(": ")[2].partition(" in the")[0]
            struck[kind] = struck.get(kind, 0) + 1
            forget(work / "run")
            write_tasks(work / "tasks")
    tally.notes.append(", ".join(f"{number} x {name}" for name, number in sorted(struck.items())))
    return tally


def _healthy(forks: Forks, plain: Material, material: Material, work: Path, size: int) -> Healthy:
    """Run without a fault, with and without benchmarks, which must not change the weights."""
    for folder, inputs in ((work / "without", plain), (work / "healthy", material)):
        if problem := inputs.finish(forks, folder, size, ["checkpoints.keep_last=20"]):
            raise RuntimeError(f"the undisturbed run failed: {problem}")
    ending = Ending.of(work / "healthy")
    if ending.weights != Ending.of(work / "without").weights:
        raise RuntimeError("benchmarks change the weights of a run")
    found = Healthy(ending, stages_of(ending.records), answers_of(work / "healthy"))
    if len(found.stages) != STAGES or any("bench/faulty/acc" not in record for record in found.stages):
        raise RuntimeError(f"the undisturbed run has other stages: {found.stages}")
    for name in ("without", "healthy"):
        forget(work / name)
    return found


def one_run(
    forks: Forks, material: Material, wanted: Healthy, work: Path, seed: int, size: int
) -> tuple[str, str | None]:
    """Make a task fail in a run of `size` ranks, then fix it; return the fault and what went wrong."""
    draw = np.random.default_rng([seed, 1])
    stage = int(draw.integers(1, STAGES + 1))
    kind = str(draw.choice([*SOFT, *HARD, *DATA]))
    on, place = int(draw.integers(0, size)), str(draw.choice(PLACES))
    name = f"rank {on} of {size}: {kind} in the {place} at stage {stage}"
    folder = work / "run"
    arguments = {"words": list(material.words), "output": str(folder), "misdeed": f"{kind}@{place}"}
    arguments |= {"stage": stage, "on": on, "data": str(work / "tasks" / "faulty.jsonl")}
    launches = 2 if kind in HARD else 1
    for launch in range(launches):
        ranks = forks.start("tests.torture.evaluation:rank", arguments, size, folder.with_suffix(".log"))
        codes = ranks.wait(PATIENCE_S)
        ranks.kill()
        ends = codes == [0] * size
        if None in codes or ends != (launch == launches - 1) or (not ends and 0 in codes):
            return name, f"launch {launch + 1} ended with {codes}: {ranks.told()[-900:]}"
    problem = _wrong(folder, wanted, failed_stage=stage)
    if problem:
        return name, problem
    write_tasks(work / "tasks")
    trusted = f"benchmarks.task_paths=[{work / 'tasks'}]"  # the tasks have code, which is run only if named here
    again = {"words": [f"run={folder}", "stages=failed", trusted]}
    ranks = forks.start("tests.train.evaluation.harness.ranks:evaluate", again, size, folder.with_suffix(".log"))
    codes = ranks.wait(PATIENCE_S)
    ranks.kill()
    if codes != [0] * size:
        return name, f"the repeated evaluation ended with {codes}: {ranks.told()[-900:]}"
    return name, _wrong(folder, wanted, failed_stage=None)


def _wrong(folder: Path, wanted: Healthy, failed_stage: int | None) -> str | None:
    """Return how a finished run differs from the healthy one, ignoring the faulty task at a failed stage."""
    ending = Ending.of(folder)
    if ending.consumed != wanted.ending.consumed or ending.weights != wanted.ending.weights:
        return "the final weights, or the consumed samples, differ"
    if ending.losses() != wanted.ending.losses():
        return "the training losses differ"
    for record, sound in zip(stages_of(ending.records), wanted.stages, strict=True):
        own = {key: value for key, value in record.items() if not key.startswith(("bench/faulty", "bench/avg"))}
        if record["stage"] == failed_stage:
            if own.pop("stage/failed", None) != "faulty" or "bench/faulty/error" not in record:
                return f"stage {failed_stage} is not marked: {record}"
            sound = {key: value for key, value in sound.items() if key in own}
        else:
            own = record
        if not _alike(own, sound):
            return f"stage {record['stage']} has {own}, not {sound}"
    answers = answers_of(folder)
    missing = {key for key in wanted.answers if key not in answers}
    expected = {key for key in wanted.answers if failed_stage and _of_failed(key, wanted, failed_stage)}
    if missing != expected or not _alike(answers, {key: wanted.answers[key] for key in answers}):
        return f"the answers differ: {sorted(missing)} are missing"
    left = list((folder / EVALUATIONS).glob("*.tmp"))
    return f"left behind: {left}" if left else None


def _alike(one: Any, other: Any) -> bool:
    """Return whether two values are equal, floats to 1e-6: rounding depends on the number of threads."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-6)
    return bool(one == other)


def _of_failed(key: str, wanted: Healthy, stage: int) -> bool:
    step = next(record["step"] for record in wanted.stages if record["stage"] == stage)
    return key.startswith(f"step_{step:08d} bench/faulty/")


def stages_of(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the last record of every stage, in order, without MEASURED metrics."""
    last = {record["stage"]: record for record in records if record["kind"] == "stage"}
    return [
        {key: value for key, value in last[stage].items() if not key.startswith(MEASURED)} for stage in sorted(last)
    ]


def answers_of(folder: Path) -> dict[str, Any]:
    """Return the answers of every stage of a run as plain lists, by file and measure."""
    return {
        f"{path.stem} {measure}": [items.ids.tolist(), items.values.tolist(), items.weights.tolist()]
        for path in sorted((folder / EVALUATIONS).glob("step_*.parquet"))
        for measure, items in read_answers(path).items()
    }


def write_tasks(folder: Path) -> None:
    """Write three tasks with questions of four choices; the code of `faulty` fails as PDPC_MISDEED says."""
    folder.mkdir(exist_ok=True)
    (folder / "misdeeds.py").write_text(CODE)
    rng = np.random.default_rng(5)
    for name in ("first", "faulty", "last"):
        rows = [
            {
                "context": "".join(chr(97 + int(c)) for c in rng.integers(0, 26, 4)),
                "choices": list("abcd"),
                "answer": n % 4,
            }
            for n in range(10)
        ]
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        task = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
        task |= {"test_split": "test", "output_type": "multiple_choice", "doc_to_choice": "choices"}
        task |= {"doc_to_text": "context", "doc_to_target": "answer", "target_delimiter": ""}
        task["metric_list"] = [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]
        text = yaml.safe_dump(task)
        if name == "faulty":
            text = text.replace("doc_to_text: context\n", "doc_to_text: !function misdeeds.question\n")
            text += "process_results: !function misdeeds.answer\n"
        (folder / f"{name}.yaml").write_text(text)


def rank(words: list[str], output: str, misdeed: str, stage: int, on: int, data: str) -> int:
    """Run a rank of a run in which a task fails at one stage, on one rank."""
    from train import run as entry
    from train import stages

    evaluate = stages.evaluate_stage

    def evaluating(loop: Any, number: int) -> None:
        os.environ.pop("PDPC_MISDEED", None)
        kind = misdeed.partition("@")[0]
        if kind in DATA and loop.world.first:
            _spoil(Path(data), kind if number == stage else "whole")
        if number == stage and loop.world.rank == on:
            os.environ["PDPC_MISDEED"] = misdeed
        evaluate(loop, number)

    entry.evaluate_stage = stages.evaluate_stage = evaluating
    return rank_of(words, output)


def _spoil(path: Path, kind: str) -> None:
    """Change a file; "whole" restores it."""
    kept = path.with_suffix(".kept")
    if not kept.exists():
        kept.write_bytes(path.read_bytes())
    whole = kept.read_bytes()
    lines = whole.splitlines(keepends=True)
    done = {"whole": whole, "torn": whole[: len(whole) * 2 // 3], "shorter": b"".join(lines[:-3]), "empty": b""}
    if kind == "gone":
        path.unlink()
    else:
        path.write_bytes(done[kind])
