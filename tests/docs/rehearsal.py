"""docs/reproduce.md at the size of a demo: its commands as they are written, with the substitutions of the tables here.

    make rehearse      runs every command of the page, on text of this machine and tasks made from it, without a network

A command keeps its verb, its keys, its experiment and its paths. What changes: the size of models, text and
evaluations; fp32 instead of bf16, which a CPU may only emulate; and this machine instead of a cluster.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, STDOUT

import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reproduce.md"
LINE = re.compile(r"^    ((?:[A-Z_]+=\S+ )*(?:pdpc|deepspeed) .*)$", re.MULTILINE)
GROUPS = ("mmlu", "cmmlu", "bbh_fewshot")
"""Tasks that are groups in lm-evaluation-harness."""
WRITTEN = ("bbh_fewshot",)
"""Tasks whose answers are written instead of chosen."""

REPLACED = {
    "tokenizer.name": "train:300",
    "tokenizer.train_megabytes": "1",
    "seq_len": "32",
    "reference_fraction": "0.3",
    "validation_fraction": "0.2",
    "max_tokens": "20000",
    "batch_size": "32",
    "stages": "2",
    "precision": "fp32",
    "processes": "1",
    "benchmarks.offline": "true",
    "benchmarks.num_fewshot": "1",
    "cluster": "local",
}
"""Values by key, wherever a command has the key. `stages` of evaluate is not a number of stages: it stays."""
DROPPED = ("cluster.hosts",)
TINY = (
    *("precision=fp32", "tracker=none", "threads=1", "micro_batch_size=8", "optimizer.lr=3e-3"),
    *("heldout.max_samples=16", "benchmarks.limit=2"),
    "accept_scores=true",  # models of a few steps are no better than token frequencies, and pdpc score says so
)
MODELS = {"reference_weak": "demo_weak", "reference_strong": "demo_strong"}
"""Model by experiment; all others: demo."""
ADDED = {
    "train": (*TINY, "processes=1"),
    "launch": (*TINY, "cluster.gpus_per_node=2"),
    "prepare": ("processes=1",),
    "score": ("processes=2",),
}
BYTES, LONGEST = 100_000, 6_000
"""Most text per source, and per document in characters: many documents, because whole ones are held out."""
TASKS = "tasks"
"""Folder of the local tasks, which have the names of the harness's own."""
ELSEWHERE = {"--hostfile": os.devnull, "--master_addr": "127.0.0.1"}
"""Options of DeepSpeed's launcher."""


@dataclass(frozen=True)
class Command:
    """A command of the page."""

    program: str
    """pdpc or deepspeed."""
    options: tuple[str, ...]
    """Of DeepSpeed's launcher, up to the module; none of pdpc."""
    verb: str
    words: tuple[str, ...]
    """What follows the verb."""

    @property
    def values(self) -> dict[str, str]:
        """Values by key."""
        return dict(word.split("=", 1) for word in self.words if "=" in word)

    @property
    def output(self) -> str | None:
        """The folder or file that the command writes, as far as the command itself says it."""
        if "--pack" in self.words:
            return self.words[self.words.index("--pack") + 1]
        return self.values.get("output")

    def is_for_another(self, other: Command) -> bool:
        """Return whether `other` is the same command for another arm or model: neither needs the other's output."""
        arms = [re.sub(r"shuffled|pdpc|weak|strong", "ARM", " ".join(one.words)) for one in (self, other)]
        return self.verb == other.verb in ("train", "launch", "evaluate") and arms[0] == arms[1]

    def small(self) -> Command:
        """Return the command at the size of a demo."""
        words = []
        for word in self.words:
            key, equals, value = word.partition("=")
            if key in DROPPED:
                continue
            stays = key == "stages" and self.verb == "evaluate"
            words.append(word if stays or not equals else f"{key}={REPLACED.get(key, value)}")
        added = [*ADDED.get(self.verb, ())]
        if "experiment" in self.values:
            added.append(f"model={MODELS.get(self.values['experiment'], 'demo')}")
        if "--pack" in words:
            added.append(f"benchmarks.task_paths=[{TASKS}]")
        options = list(self.options)
        for option, value in ELSEWHERE.items():
            if option in options:
                options[options.index(option) + 1] = value
        if options:
            added, options = [], ["--num_gpus", "2", *options]  # processes are those of the launcher
        return Command(self.program, tuple(options), self.verb, (*words, *added))

    def line(self) -> list[str]:
        """Return the arguments of a process that runs the command with this Python."""
        if self.program == "deepspeed":
            program = [str(Path(sys.executable).absolute().parent / "deepspeed")]
        else:
            program = [sys.executable, "-m", "launch.cli"]
        return [*program, *self.options, self.verb, *self.words]


def commands() -> list[Command]:
    """Return the commands of the page."""
    found = []
    for line in LINE.findall(PAGE.read_text("utf-8")):
        words = shlex.split(line)
        while re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        program, *rest = words
        first = rest.index("launch.rank") + 1 if program == "deepspeed" else 0
        found.append(Command(program, tuple(rest[:first]), rest[first], tuple(rest[first + 1 :])))
    return found


def tasks_of(command: Command) -> list[str]:
    """Return the benchmarks that a command names."""
    return [name.strip() for name in command.values["benchmarks.tasks"].strip("[]").split(",")]


def write_text(folder: Path) -> None:
    """Write text that every Python has, from two of the demo's sources: 150 KB in 60 documents."""
    from launch.demo.sources import Places, help_topics, python_files, read_modules
    from launch.demo.text import arrange_sources, write

    skipped: Counter[str] = Counter()
    library = Places.of_this_python().standard_library
    topics = help_topics(library / "pydoc_data" / "topics.py")
    modules = read_modules(sorted(python_files(library / "importlib")), library, skipped)
    found = {"help_topics": topics, "stdlib_docstrings": modules[1]}
    sources = {name: [one for one in documents if len(one[1]) < LONGEST] for name, documents in found.items()}
    folder.mkdir(parents=True)
    for source, documents in arrange_sources(sources, dict.fromkeys(sources, BYTES), skipped).items():
        write(folder / f"{source}.jsonl", source, documents)


def write_tasks(folder: Path, names: list[str], tokens: Path) -> None:
    """Write tasks with the names of the harness's own, whose questions are cut from the held-out slice of `tokens`."""
    from curriculum.tokens.tokens import Tokens
    from launch.demo.benchmark import build, task

    data = folder.parent / "questions"
    build(Tokens.open(tokens, "validation"), data, questions=8, seed=0, context_tokens=12, continuation_tokens=6)
    folder.mkdir()
    for name in names:
        one = task((data / "continuation.jsonl").resolve())
        if name in WRITTEN:
            for key in ("doc_to_choice", "metric_list"):
                one.pop(key, None)
            one |= {
                "output_type": "generate_until",
                "doc_to_target": "{{choices[answer]}}",
                "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 4},
                "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
            }
        metric = one["metric_list"][0]["metric"]
        if name in GROUPS:
            member = f"{name}_local"
            group = {
                "group": name,
                "task": [member],
                "aggregate_metric_list": [{"metric": metric, "aggregation": "mean", "weight_by_size": True}],
            }
            (folder / f"{name}.yaml").write_text(yaml.safe_dump(group))
            (folder / f"{member}.yaml").write_text(yaml.safe_dump({**one, "task": member}))
        else:
            (folder / f"{name}.yaml").write_text(yaml.safe_dump({**one, "task": name}))


def waves(found: Sequence[Command]) -> Iterator[list[Command]]:
    """Yield the commands in their order, two at once where two arms or models have the same command."""
    wave: list[Command] = []
    for command in found:
        if wave and (len(wave) == 2 or command.program != "pdpc" or not wave[0].is_for_another(command)):
            yield wave
            wave = []
        wave.append(command)
    yield wave


def run(wave: Sequence[Command], folder: Path, environment: Mapping[str, str]) -> None:
    """Run commands at once in `folder`. Raises RuntimeError, with the output of one, if it fails."""
    started = [
        subprocess.Popen(one.line(), cwd=folder, env=environment, stdout=PIPE, stderr=STDOUT, text=True) for one in wave
    ]
    outputs = [process.communicate()[0] for process in started]
    for one, process, output in zip(wave, started, outputs, strict=True):
        if process.returncode != 0:
            raise RuntimeError(f"{shlex.join(one.line())} ended with {process.returncode}:\n{output}")
