"""`pdpc demo`: the full pipeline on text found on this machine, in one command.

Three arms read the same samples once: shuffled; late, which reads one source late and is to gain on that source; and
pdpc, the order by PD.

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
from train.config.typed import quoted

TARGET = "package_descriptions"
"""Target of the text found on this machine."""
TARGET_VALIDATION = 0.2
"""Fraction of the target's documents that is held out: its loss decides, so that it needs more than the others."""
LATE = {0.0: 0.3, 0.6: 0.5, 1.0: 3.0}
"""The target's share of a batch in the arm `late`, by progress, relative to its share of the corpus."""
BENCHMARK = "continuation"
OWN = (
    *("text", "tokens", "scores", "benchmark", "tokens.chunks", "scores.chunks", "order_*", "reference_*", "run_*"),
    *("export_pdpc", "report.*", "report_figures", ".*.tmp-*", ".export_pdpc.*"),
)
"""Patterns of what a demo writes to its folder."""


@dataclass(frozen=True)
class DemoSettings:
    """Settings of `pdpc demo`."""

    output: str = "demo"
    """Output folder."""
    processes: int = 2
    """Ranks per training run."""
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
    batch_size: int = 16
    """Samples per global batch."""
    stages: int = 3
    """Stages per run."""
    reference_fraction: float = 0.4
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
    if code := _verb(pdpc, _prepare(settings, root, text)):
        return code
    _benchmark(settings, root)
    for words in _runs(settings, root):
        if code := _verb(pdpc, words):
            return code
    minutes = (time.monotonic() - started) / 60
    print(f"\nDone in {minutes:.1f} minutes. The report is {root / 'report.html'}")
    return 0


def _prepare(settings: DemoSettings, root: Path, text: Path) -> list[str]:
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


def _runs(settings: DemoSettings, root: Path) -> list[list[str]]:
    """Return the command lines from the reference models to the report and the export."""
    tokens, scores, seed = quoted(f"{root}/tokens"), quoted(f"{root}/scores"), f"seed={settings.seed}"
    batch = f"batch_size={settings.batch_size}"
    train = [
        "train",
        "experiment=demo",
        f"processes={settings.processes}",
        f"data.tokens={tokens}",
        "tracker.group=demo",
    ]
    if settings.threads is not None:
        train.append(f"threads={settings.threads}")
    tasks = [f"benchmarks.task_paths=[{quoted((root / 'benchmark').absolute())}]", f"benchmarks.tasks=[{BENCHMARK}]"]
    reference = [
        "arrange",
        f"tokens={tokens}",
        "slice=reference",
        "preference=shuffled",
        "stages=1",
        batch,
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
        f"output={scores}",
    ]
    preferences = {"shuffled": ["preference=shuffled"], "pdpc": ["preference=pdpc"]}
    if settings.late is not None:
        preferences["late"] = _late(settings.late, root)
    numbers = range(settings.seed, settings.seed + settings.seeds)
    runs = [(arm, number) for number in numbers for arm in preferences]
    orders = [
        [
            "arrange",
            f"tokens={tokens}",
            f"scores={scores}",
            *preferences[arm],
            f"stages={settings.stages}",
            batch,
            f"seed={number}",
            f"output={quoted(root / f'order_{arm}_{number}')}",
        ]
        for arm, number in runs
    ]
    arms = [
        [
            *train,
            f"seed={number}",
            f"arm={arm}",
            f"data.order={quoted(root / f'order_{arm}_{number}')}",
            f"data.scores={scores}",
            "accept_scores=true",  # a demo of tiny models goes on; its report says what is wrong with the scores
            *tasks,
            f"output={quoted(root / f'run_{arm}_{number}')}",
        ]
        for arm, number in runs
    ]
    repeats = {arm: ",".join(quoted(root / f"run_{arm}_{number}") for number in numbers) for arm in preferences}
    report = [
        "report",
        *(f"runs.{arm}=[{folders}]" for arm, folders in repeats.items()),
        "baseline=shuffled",
        *([] if settings.late is None else [f"target={quoted(settings.late)}"]),
        f"output={quoted(root / 'report.html')}",
    ]
    export = ["export", f"run={quoted(root / f'run_pdpc_{settings.seed}')}", f"output={quoted(root / 'export_pdpc')}"]
    return [reference, *models, score, *orders, *arms, report, export]


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
