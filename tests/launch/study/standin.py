"""A stand-in for `pdpc`: a study whose steps write what the commands would, a piece at a time, within a second.

python -m tests.launch.study.standin study file=STUDY output=FOLDER      the real study, whose steps are these:
python -m tests.launch.study.standin VERB KEY=VALUE ...                  an artifact or a RUN; a killed RUN is resumed
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from curriculum.artifact.create import create
from launch.study.runner import KINDS
from train.evaluation.answers import Items, answers_path, write_answers

STAGES, STEPS, DOCUMENTS = 2, 6, 40
GAIN = {"late": -0.1, "early": 0.06}
"""Difference from the other arms on science."""


def patch(study: Any) -> None:
    """Let launch.study.study run the stand-ins, without composing settings."""
    no_tasks = SimpleNamespace(task_paths=[], task_code=True)
    study.composed = lambda verb, words: SimpleNamespace(processes=1, grace_s=1.0, benchmarks=no_tasks)
    study.width, study.room = lambda settings: 1, lambda where: 2
    study.command = lambda step: [sys.executable, "-m", "tests.launch.study.standin", step.verb, *step.words]


def train(folder: Path, given: Mapping[str, str]) -> None:
    """Write a RUN, going on after the last whole record."""
    seed, arm = int(given.get("seed", 0)), given["arm"]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "metrics.jsonl"
    whole = path.read_text().rpartition("\n")[0].splitlines() if path.is_file() else []
    path.write_text("".join(f"{line}\n" for line in whole))
    (folder / "config.json").write_text(json.dumps({"arm": arm, "seed": seed}))
    info = {"arm": arm, "seed": seed, "parameters": 1, "identity": {}, "fingerprints": {}, "paths": {}, "versions": {}}
    (folder / "run.json").write_text(json.dumps(info | {"status": "running"}))
    with open(path, "a") as file:
        for step in range(len(whole) + 1, STAGES * STEPS + 1):
            time.sleep(0.02)
            record = {"kind": "train", "step": step, "tokens": 100 * step, "train/loss": 5.0 - 0.1 * step}
            if step % STEPS == 0:
                record |= {"kind": "stage", "stage": step // STEPS, **evaluated(folder, seed, arm, step)}
            file.write(json.dumps(record) + "\n")
            file.flush()
    draft = folder / ".run.json"
    draft.write_text(json.dumps(info | {"status": "finished"}))
    os.replace(draft, folder / "run.json")


def evaluated(folder: Path, seed: int, arm: str, step: int) -> dict[str, float]:
    """Write answers by document; return the measures that are their means."""
    noise = np.random.default_rng([seed, len(arm)])
    documents = np.random.default_rng(5).normal(0, 0.5, DOCUMENTS)
    answers = {}
    for key, gain in (("val/loss", 0.0), ("val/source/science/loss", GAIN.get(arm, 0.0))):
        values = 4.5 - 0.05 * step + gain + 0.02 * noise.normal() + documents + noise.normal(0, 0.02, DOCUMENTS)
        answers[key] = Items(np.arange(DOCUMENTS), values, np.ones(DOCUMENTS), np.arange(DOCUMENTS))
    write_answers(answers_path(folder, step), answers)
    return {key: items.mean() for key, items in answers.items()}


def main(words: list[str]) -> int:
    """Run a verb."""
    verb, given = words[0], dict(word.split("=", 1) for word in words[1:])
    given = {key: value.strip("'") for key, value in given.items()}
    if verb == "study":
        from launch.study import study
        from launch.study.settings import StudySettings

        patch(study)
        return study.run(StudySettings(**given))
    output = Path(given["output"])
    if verb == "train":
        train(output, given)
    elif not output.exists():
        time.sleep(0.05)
        with create(output, KINDS[verb], config={}, inputs={}) as draft:
            draft.facts.update(samples=12, seq_len=100)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
