"""Secrets in the environment, in overrides and in errors, with crashes at any point: none is written to a file (T23).

A round is a run on one rank with W&B offline, which is killed at a fault point and resumed to its end, then used for
scoring, evaluation and a report. The environment holds keys and a URL with a password; a benchmark task raises errors
with all of them; verbs get overrides with one of them. Passed: no secret appears in any output (records, checkpoints,
W&B's folder, stacks, pages, logs), whether in plain text, in a URL, or in base64.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np

from tests.torture.campaign import Tally, case_seeds
from tests.torture.forks import Forks, served
from tests.torture.runs import PATIENCE_S, Material, forget
from train.config.secrets import REDACTED
from train.distributed.exit_codes import DONE, REFUSED
from train.faults import POINTS

FULL = 20
ACTIONS = ("raise", "kill", "exit")
TASK = """task: leaky
dataset_path: json
dataset_kwargs: {data_files: {test: leaky.jsonl}}
test_split: test
output_type: multiple_choice
process_docs: !function leaky.run
doc_to_text: "{{q}}"
doc_to_choice: ["a", "b"]
doc_to_target: 0
"""
CODE = """import os

def run(docs):
    raise RuntimeError(f"no answer from {os.environ['HTTPS_PROXY']}: {dict(os.environ)}")
"""
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def planted(rng: np.random.Generator) -> tuple[dict[str, str], list[str]]:
    """Return an environment with secrets, and the secrets: keys, and the password in a URL."""

    def drawn(size: int, letters: str) -> str:
        return "".join(letters[int(i)] for i in rng.integers(0, len(letters), size))

    password = drawn(16, LETTERS)
    keys = {
        "WANDB_API_KEY": drawn(40, "0123456789abcdef"),
        "HF_TOKEN": f"hf_{drawn(34, LETTERS)}",
        "AWS_SECRET_ACCESS_KEY": drawn(38, f"{LETTERS}+/") + "+/",
    }
    address = f"http://user:{password}@127.0.0.1:9/"
    environment = {**keys, "HTTPS_PROXY": address, "WANDB_MODE": "offline"}
    return environment, [*keys.values(), password, f"sk-{drawn(40, LETTERS)}"]


def forms(secret: str) -> list[bytes]:
    """Return the encodings in which a secret may be written."""
    raw = secret.encode()
    coded = [base64.b64encode(b"\0" * shift + raw).decode()[4 if shift else 0 : -4] for shift in range(3)]
    return [text.encode() for text in (secret, quote(secret, safe=""), *coded, *(c.replace("/", "_") for c in coded))]


def hits(folder: Path, secrets: Sequence[str]) -> Iterator[str]:
    """Yield the files under a folder that contain a secret."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            data = path.read_bytes()
            for number, secret in enumerate(secrets):
                if any(form in data for form in forms(secret)):
                    at = next(data.find(form) for form in forms(secret) if form in data)
                    yield f"{path.relative_to(folder)} contains secret {number} ({data[max(0, at - 60) : at]!r})"


def verb(words: Sequence[str]) -> int:
    """Run `pdpc WORDS` in a forked process."""
    import os

    from benchmarks.processes import PLACE

    for name in PLACE:
        os.environ.pop(name, None)
    from launch.cli import main

    return main(list(words))


class Round:
    """One run, with its environment."""

    def __init__(self, forks: Forks, material: Material, tasks: Path, work: Path, rng: np.random.Generator) -> None:
        self.forks, self.material, self.tasks, self.work, self.rng = forks, material, tasks, work, rng
        self.environment, self.secrets = planted(rng)
        self.launches = 0

    def launch(self, target: str, words: Sequence[str], fault: str = "", output: str | None = None) -> int | None:
        """Start a process, wait for it and return its exit code."""
        self.launches += 1
        arguments = {"words": list(words), **({"output": output} if output else {})}
        environment = {**self.environment, **({"PDPC_FAULT": fault} if fault else {})}
        ranks = self.forks.start(target, arguments, 1, self.work / f"launch_{self.launches}.log", environment)
        codes = ranks.wait(PATIENCE_S)
        ranks.kill()
        return codes[0]

    def pdpc(self, *words: str, fault: str = "") -> int | None:
        """Run a verb."""
        return self.launch("tests.torture.canaries:verb", words, fault)

    def fault(self, groups: Sequence[str]) -> str:
        """Draw a fault point from some groups, and an action."""
        names = [n for n, point in POINTS.items() if n.split(".")[0] in groups and not point.poisons]
        name = names[int(self.rng.integers(len(names)))]
        return f"{name}:nth={int(self.rng.integers(1, 4))}:{ACTIONS[int(self.rng.integers(len(ACTIONS)))]}"

    @property
    def run(self) -> Path:
        """The RUN folder."""
        return self.work / "run"

    @property
    def words(self) -> list[str]:
        """The overrides of the run."""
        benchmarks = ["benchmarks.tasks=[leaky]", f"benchmarks.task_paths=[{self.tasks}]", "benchmarks.limit=2"]
        return [*self.material.words, "tracker=wandb", "tracker.retry_s=0.2", "tracker.finish_s=5", *benchmarks]

    def refused(self) -> str | None:
        """Give overrides that contain a secret; return what went wrong."""
        secret = self.secrets[int(self.rng.integers(len(self.secrets)))]
        given = (f"tracker.tags=['{secret}']", f"tracker.project='x {secret}'", f"tracker.group=https://u:{secret}@h/")
        key = given[int(self.rng.integers(len(given)))]
        for one in (key, f"seed='{secret}'", f"no_such_key='{secret}'", f"optimizer.lr=['{secret}'"):
            code = self.pdpc("train", *self.words, f"output={self.run}", one)
            if code != REFUSED:
                return f"an override with a secret ended with {code}"
        return None

    def trained(self, fault: str) -> str | None:
        """Interrupt a run at a fault point and finish it; return what went wrong."""
        for drill in (fault, ""):
            code = self.launch("tests.torture.forks:train", self.words, drill, str(self.run))
        return None if code == DONE else f"after {fault} the run ended with {code}: {self.told()[-300:]}"

    def used(self) -> str | None:
        """Score with a run, evaluate it and report it; return what went wrong."""
        scores = [f"tokens={self.material.order.folder.parent / 'tokens'}", f"output={self.work / 'scores'}"]
        scores += [f"models.weak={self.run}", f"models.strong={self.run}", "precision=fp32", "processes=1"]
        self.pdpc("score", *scores, fault=self.fault(["chunk"]))
        self.pdpc("score", *scores)
        self.pdpc("evaluate", f"run={self.run}", "benchmarks.tasks=[leaky]", f"benchmarks.task_paths=[{self.tasks}]")
        page = [f"runs.shuffled={self.run}", f"runs.pdpc={self.run}", f"output={self.work / 'report.html'}"]
        code = self.pdpc("report", *page)
        return None if code == DONE else f"the report ended with {code}: {self.told()[-300:]}"

    def left(self) -> str | None:
        """Search all written files for the secrets."""
        found = list(hits(self.work, self.secrets))
        if found:
            return f"{len(found)} hits: {'; '.join(found[:4])}"
        if REDACTED not in (self.run / "metrics.jsonl").read_text():
            return "the task's error, with its secrets redacted, is not on record"
        if not list(self.run.glob("wandb/offline-run-*")):
            return "nothing was logged to W&B"
        return None

    def problem(self) -> str | None:
        """Run the round; return what went wrong."""
        fault = self.fault(["world", "loop", "checkpoint", "tracker"])
        problem = self.refused() or self.trained(fault) or self.used() or self.left()
        return problem and f"{fault}: {problem}"

    def told(self) -> str:
        """Return the log of the last launch."""
        return (self.work / f"launch_{self.launches}.log").read_text("utf-8", "replace")


def material_of(work: Path) -> tuple[Material, Path]:
    """Write the inputs of the runs, and the task that leaks secrets; return both."""
    material, tasks = Material.make(work / "material", samples=60, stages=2), work / "tasks"
    tasks.mkdir()
    (tasks / "leaky.yaml").write_text(TASK)
    (tasks / "leaky.py").write_text(CODE)
    (tasks / "leaky.jsonl").write_text('{"q": "x"}\n' * 4)
    return material, tasks


def run(count: int, seed: int, work: Path) -> Tally:
    """Run `count` rounds."""
    tally = Tally("canaries", seed=seed)
    material, tasks = material_of(work)
    with served() as forks:
        for case in case_seeds(seed, count):
            folder = work / "round"
            folder.mkdir()
            tally.add(case, Round(forks, material, tasks, folder, np.random.default_rng(case)).problem())
            forget(folder)
    return tally
