"""`pdpc demo`: the full pipeline on text found on this machine, in one command.

Three arms read the same samples once: shuffled; late, which reads one source late and is to gain on that source; and
pdpc, the order by PD. The last two branch from the shuffled runs at half their samples, so that their differences are
those of the second half only, without the noise that the first half leaves in a run.

Each step is an ordinary verb whose command line is printed before it runs. Complete artifacts are reused, so a killed
demo resumes where it stopped.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from curriculum.artifact.outputs import BYSTANDERS, check_free
from curriculum.work.console import PlainConsole
from launch.cluster.machines import Local
from launch.study.progress import StudyProgress
from launch.study.runner import Runner
from launch.study.steps import Run, Step, Steps
from launch.study.study import command, room
from train.config.typed import quoted

TARGET = "package_descriptions"
"""Target of the text found on this machine."""
TARGET_VALIDATION = 0.2
"""Fraction of the target's documents that is held out: its loss decides, so that it needs more than the others."""
LATE = {0.0: 0.33, 0.6: 0.56, 1.0: 3.4}
"""The target's share of a batch in the arm `late`, by progress of the second half, relative to that of the corpus."""
BENCHMARK = "continuation"
OWN = (
    *("text", "tokens", "scores", "benchmark", "tokens.chunks", "scores.chunks", "order_*", "reference_*", "run_*"),
    *("export_pdpc", "done", "logs", "report.*", "report_figures", ".*.tmp-*", ".export_pdpc.*"),
)
"""Patterns of what a demo writes to its folder."""


@dataclass(frozen=True)
class DemoSettings:
    """Settings of `pdpc demo`."""

    output: str = "demo"
    """Output folder."""
    processes: int = 2
    """Ranks that train a reference model. The arms' runs have one rank each, as many at once as there are CPUs."""
    threads: int | None = None
    """CPU threads per rank; null: OMP_NUM_THREADS, or an equal share of the CPUs that may be used."""
    seed: int = 0
    """Seed of the split and the reference models, and first seed of the arms."""
    seeds: int = 3
    """Runs per arm, with seeds counted from `seed`: one run per arm cannot tell the order's effect from chance."""
    vocabulary: int = 4096
    """Vocabulary size of the tokenizer trained on the text."""
    seq_len: int = 256
    """Labels per sample; a sample holds one more token."""
    batch_size: int = 8
    """Samples per global batch."""
    stages: int = 4
    """Stages per run, an even number: the arms branch at half of the run."""
    reference_fraction: float = 0.55
    """Fraction of the documents used only to train the reference models."""
    validation_fraction: float = 0.08
    """Fraction of the documents held out from all training."""
    questions: int = 200
    """Questions in the benchmark."""
    only_text: bool = False
    """Only collect the text, into the folder `text` of the output."""
    text: str | None = None
    """Folder of .jsonl files (columns text, source) to use instead of text found on this machine."""
    target: str | None = None
    """Source that the arm `late` reads late, and that decides the comparison; null: package_descriptions, or with
    `text` no such arm."""

    def __post_init__(self) -> None:
        if self.stages % 2:
            raise ValueError(f"stages={self.stages} must be even: the arms branch at half of the run")
        for key in ("processes", "seeds", "vocabulary", "seq_len", "batch_size", "stages", "questions"):
            if getattr(self, key) < 1:
                raise ValueError(f"{key}={getattr(self, key)} must be at least 1")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads={self.threads} must be at least 1, or null to divide the CPUs by the ranks")

    @property
    def late(self) -> str | None:
        """The source that the arm `late` reads late; None without such an arm."""
        return self.target or (TARGET if self.text is None else None)


def run(settings: DemoSettings, pdpc: Callable[[list[str]], int]) -> int:
    """Run the full pipeline through `pdpc`, the command line; return 0, or the exit code of the step that failed."""
    started = time.monotonic()
    root = Path(settings.output)
    check_free("output", root, (*OWN, *BYSTANDERS))
    text = Path(settings.text) if settings.text else root / "text"
    if settings.text is None:
        from launch.demo.text import collect

        _announce("collect text from this machine")
        collect(text)
    if settings.only_text:
        return 0
    if code := _verb(pdpc, prepare(settings, root, text)):
        return code
    _benchmark(settings, root)
    for words in references(settings, root):
        if code := _verb(pdpc, words):
            return code
    steps = arms(settings, root)
    if code := _run_at_once(steps, root):
        return code
    for words in results(settings, root, steps):
        if code := _verb(pdpc, words):
            return code
    minutes = (time.monotonic() - started) / 60
    print(f"\nDone in {minutes:.1f} minutes. The report is {root / 'report.html'}")
    return 0


def prepare(settings: DemoSettings, root: Path, text: Path) -> list[str]:
    """Return the command line that makes the tokens."""
    words = [
        "prepare",
        f"input.paths=[{quoted(text)}]",
        f"tokenizer.name=train:{settings.vocabulary}",
        f"seq_len={settings.seq_len}",
        f"seed={settings.seed}",
        f"reference_fraction={settings.reference_fraction}",
        f"validation_fraction={settings.validation_fraction}",
        f"output={quoted(root / 'tokens')}",
    ]
    if settings.late is not None:
        words.append(f"validation_by_source={{{quoted(settings.late)}: {TARGET_VALIDATION}}}")
    return words


def _late(target: str, root: Path) -> list[str]:
    """Return the preference that reads `target` late: its share of a batch by progress, at most a half."""
    from curriculum.tokens.tokens import Tokens

    tokens = Tokens.open(root / "tokens")
    samples = np.bincount(tokens.source_of(np.arange(len(tokens))), minlength=len(tokens.sources))
    share = samples[tokens.sources.index(target)] / len(tokens)
    points = ", ".join(f"{at}: {{{quoted(target)}: {min(0.5, factor * share):.4f}}}" for at, factor in LATE.items())
    return ["preference=mixture", f"preference.shares={{{points}}}"]


def references(settings: DemoSettings, root: Path) -> list[list[str]]:
    """Return the command lines that make the reference models and the scores."""
    tokens, seed = quoted(f"{root}/tokens"), f"seed={settings.seed}"
    train = ["train", "experiment=demo", f"processes={settings.processes}", f"data.tokens={tokens}"]
    train.append("tracker.group=demo")
    if settings.threads is not None:
        train.append(f"threads={settings.threads}")
    reference = [
        "arrange",
        f"tokens={tokens}",
        "slice=reference",
        "preference=shuffled",
        "stages=1",
        f"batch_size={settings.batch_size}",
        seed,
        f"output={quoted(root / 'order_reference')}",
    ]
    models = [
        [
            *train,
            seed,
            f"arm={name}",
            f"model=demo_{name}",
            f"data.order={quoted(root / 'order_reference')}",
            f"output={quoted(root / f'reference_{name}')}",
        ]
        for name in ("weak", "strong")
    ]
    score = [
        "score",
        f"tokens={tokens}",
        f"models.weak={quoted(root / 'reference_weak')}",
        f"models.strong={quoted(root / 'reference_strong')}",
        f"output={quoted(root / 'scores')}",
    ]
    return [reference, *models, score]


def arms(settings: DemoSettings, root: Path) -> Steps:
    """Return the orders and runs of all arms and seeds: the shuffled runs, then those that branch from them."""
    data = [f"tokens={quoted(root / 'tokens')}", f"scores={quoted(root / 'scores')}"]
    steps, runs = [], []

    def add(arm: str, seed: int, verb: str, arrange: list[str], train: list[str], needs: list[str]) -> None:
        order, run = root / f"order_{arm}_{seed}", root / f"run_{arm}_{seed}"
        words = [*data, *arrange, f"seed={seed}", f"output={quoted(order)}"]
        steps.append(Step(order.name, verb, words, order, needs[:1], 1))
        words = [*_training(settings, root), f"seed={seed}", f"arm={arm}", f"data.order={quoted(order)}", *train]
        words.append(f"output={quoted(run)}")
        steps.append(Step(run.name, "train", words, run, [order.name, *needs[1:]], 1))
        runs.append(Run(arm, "", seed, steps[-1]))

    seeds = range(settings.seed, settings.seed + settings.seeds)
    shuffled = ["preference=shuffled", f"stages={settings.stages}", f"batch_size={settings.batch_size}"]
    for seed in seeds:
        add("shuffled", seed, "arrange", shuffled, ["checkpoints.keep_stages=true"], [])
    branches = {"pdpc": ["preference=pdpc"]}
    if settings.late is not None:
        branches = {"late": _late(settings.late, root), **branches}
    for seed in seeds:
        order, run = root / f"order_shuffled_{seed}", root / f"run_shuffled_{seed}"
        replan = [f"order={quoted(order)}", f"from_stage={settings.stages // 2}"]
        for arm, preference in branches.items():
            train = [f"branch_of={quoted(run)}"]
            add(arm, seed, "replan", [*replan, *preference], train, [order.name, run.name])
    return Steps(steps, runs)


def _training(settings: DemoSettings, root: Path) -> list[str]:
    """Return the settings of training that all arms share."""
    tasks = [f"benchmarks.task_paths=[{quoted((root / 'benchmark').absolute())}]", f"benchmarks.tasks=[{BENCHMARK}]"]
    data = [f"data.tokens={quoted(root / 'tokens')}", f"data.scores={quoted(root / 'scores')}"]
    # a demo of tiny models goes on with unusable scores; its report says what is wrong with them
    return ["experiment=demo", "processes=1", "threads=1", *data, "accept_scores=true", "tracker.group=demo", *tasks]


def _run_at_once(steps: Steps, root: Path) -> int:
    """Run steps, as many at once as there are CPUs; return 0, or the exit code of the first that failed."""
    for step in steps.all:
        _announce(shlex.join(["pdpc", step.verb, *step.words]))
    progress = StudyProgress(PlainConsole(stderr=True), steps)
    return Runner(root, steps.all, room(Local()), None, command, progress).run()


def results(settings: DemoSettings, root: Path, steps: Steps) -> list[list[str]]:
    """Return the command lines of the report and the export."""
    names = dict.fromkeys(run.arm for run in steps.runs)
    folders = {arm: ",".join(quoted(run.step.output) for run in steps.runs if run.arm == arm) for arm in names}
    report = ["report", *(f"runs.{arm}=[{listed}]" for arm, listed in folders.items()), "baseline=shuffled"]
    report += [] if settings.late is None else [f"target={quoted(settings.late)}"]
    report.append(f"output={quoted(root / 'report.html')}")
    export = ["export", f"run={quoted(root / f'run_pdpc_{settings.seed}')}", f"output={quoted(root / 'export_pdpc')}"]
    return [report, export]


def _benchmark(settings: DemoSettings, root: Path) -> None:
    from curriculum.tokens.tokens import Tokens
    from launch.demo.benchmark import build

    _announce("build a benchmark from held-out documents: which of four continuations is the real one?")
    build(
        Tokens.open(root / "tokens", "validation"),
        root / "benchmark",
        questions=settings.questions,
        seed=settings.seed,
        context_tokens=64,
        continuation_tokens=24,
    )


def _verb(pdpc: Callable[[list[str]], int], words: list[str]) -> int:
    _announce(shlex.join(["pdpc", *words]))
    return pdpc(words)


def _announce(line: str) -> None:
    print(f"\n$ {line}" if line.startswith("pdpc") else f"\n# {line}", flush=True)
