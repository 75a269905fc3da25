"""SIGKILL of a whole study at random moments: the study, its steps, their launchers and ranks, in any order.

A study is killed again and again, and run again each time, until it has finished once; then the next one begins.
Passed: it ends by itself, and its results.json and page are those of an undisturbed study, byte by byte. An attempt is
a kill. With `small`, the steps are stand-ins that write what the commands would; else they are the commands.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from tests.launch.study.example import written
from tests.torture.campaign import Tally
from tests.torture.forks import ROOT
from tests.train.descendants import descendants

FULL = 20
PATIENCE_S = 3600.0
PAGES = ("results.json", "study.html")
MOST_KILLS = 10
"""Of one study; after them it is left to end."""


def run(count: int, seed: int, work: Path, small: bool = False) -> Tally:
    """Kill `count` times; a count of 1 is one kill of one study."""
    tally, draw = Tally("study", seed=seed), random.Random(seed)
    file = _small(work) if small else _real(work)
    module = "tests.launch.study.standin" if small else "launch.cli"
    began = time.monotonic()
    if problem := _ended(_start(module, file, work / "whole")):
        raise RuntimeError(f"the undisturbed study {problem}")
    whole_s = time.monotonic() - began
    studies = 0
    while tally.attempts < count:
        folder = work / f"study-{studies}"
        most = min(MOST_KILLS, count - tally.attempts)
        killed, problem = _one_study(module, file, folder, most, whole_s, draw)
        problem = problem or _different(work / "whole", folder)
        for _ in range(killed):
            tally.add(seed, problem)
        shutil.rmtree(folder)
        studies += 1
    tally.notes.append(f"{studies} studies")
    return tally


def _one_study(
    module: str, file: Path, folder: Path, most: int, whole_s: float, draw: random.Random
) -> tuple[int, str | None]:
    """Kill a study up to `most` times, then let it end; return the number of kills and what went wrong."""
    for killed in range(most):
        study = _start(module, file, folder)
        with suppress(subprocess.TimeoutExpired):
            if study.wait(draw.uniform(0, whole_s)) == 0:
                return killed, None
            return killed + 1, f"ended by itself: {_ended(study)}"
        _kill(study, draw)
    return most, _ended(_start(module, file, folder))


def _start(module: str, file: Path, folder: Path) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", module, "study", f"file={file}", f"output={folder}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with open(f"{folder}.log", "ab") as log:
        return subprocess.Popen(words, cwd=file.parent, env=environment, stdout=log, stderr=log)


def _ended(study: subprocess.Popen[bytes]) -> str | None:
    """Wait for a study; return what went wrong, None: nothing."""
    code = study.wait(PATIENCE_S)
    output = Path(str(study.args[-1]).partition("=")[2])  # type: ignore[index]
    return f"ended with {code}: {Path(f'{output}.log').read_text()[-1500:]}" if code else None


def _kill(study: subprocess.Popen[bytes], draw: random.Random) -> None:
    """Kill a process and all its descendants, in random order, and wait until they have ended."""
    tree = [study.pid, *descendants(study.pid)]
    draw.shuffle(tree)
    for pid in tree:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    study.wait()
    deadline = time.monotonic() + PATIENCE_S
    while any(_alive(pid) for pid in tree) and time.monotonic() < deadline:
        time.sleep(0.01)


def _alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and waits for its new parent to notice does not."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def _different(whole: Path, folder: Path) -> str | None:
    """Return which of the pages differs from that of the undisturbed study; None: neither."""
    for name in PAGES:
        if (folder / name).read_bytes() != (whole / name).read_bytes():
            return f"{name} differs from that of the undisturbed study"
    return None


def _small(work: Path) -> Path:
    return written(work, seeds=2, steps={"tokens": {"verb": "prepare", "input.paths": ["corpus"]}})


def _real(work: Path) -> Path:
    """Write some text, and a study of 13 steps: two seeds, three arms, one of them a mirrored twin."""
    draw = random.Random(0)
    words = ["the", "cat", "dog", "sees", "likes", "a", "tree", "house", "and", "then", "runs", "sleeps"]
    rows = [
        {"text": " ".join(draw.choices(words, k=draw.randrange(20, 90))), "source": ("science", "web")[number % 2]}
        for number in range(400)
    ]
    (work / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    steps = {
        "tokens": {
            "verb": "prepare", "input.paths": [str(work / "corpus.jsonl")], "tokenizer.name": "train:280",
            "seq_len": 32, "validation_fraction": 0.2, "reference_fraction": 0.0,
        }
    }  # fmt: skip
    train = {
        "experiment": "demo", "data.tokens": "$tokens", "processes": 1, "threads": 1, "tracker": "none",
        "model.layers": 1, "micro_batch_size": 8, "checkpoints.save_every": 10,
    }  # fmt: skip
    late = {"preference": "mixture", "preference.shares": {0.0: {"science": 0.3}, 1.0: {"science": 0.7}}}
    arms = {"shuffled": {"preference": "shuffled"}, "late": late, "early": {"twin": "mirrored", "twin_of": "$late"}}
    order = {"tokens": "$tokens", "batch_size": 8, "stages": 2}
    return written(work, seeds=2, steps=steps, order=order, train=train, arms=arms)
