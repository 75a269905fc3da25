"""A tokenizer of the same size with other merges next to the tokens: refused by its hash at every entry point (T16).

A case swaps two merges, or two entries of the vocabulary, in tokenizer.json; in every second case the manifest is
forged to match. Passed: training, its resume, evaluation, export, scoring and inspection all refuse it, naming the file
or the run whose tokenizer it should be, and accept the old one again.
"""

from __future__ import annotations

import contextlib
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np

from curriculum.scores.scorer import _check as check_scorer
from curriculum.tokens.tokens import Tokens
from launch.evaluate.questions import questions_of as questions
from launch.inspect.step import _decoder as decoder_of
from launch.score.references import Reference
from tests.torture import poison
from tests.torture.campaign import Tally, case_seeds
from tests.torture.material import make_run, settings_of
from tests.torture.ranks import quiet
from train.evaluation.harness.tasks import BenchmarkSettings
from train.evaluation.heldout import HeldoutSettings
from train.export.export import tokenizer_folder
from train.inputs import open_inputs
from train.records.run_json import read_run

FULL = 20
FILE = "tokens/tokenizer/tokenizer.json"


def facts_of(root: Path) -> dict[str, object]:
    """Return the contents of run.json, with the paths that a run writes there."""
    return {**read_run(root / "run"), "paths": {"tokens": str(root / "tokens"), "scores": None}}


def _score(root: Path) -> None:
    check_scorer("weak", _model(), {"train": Tokens.open(root / "tokens")})


def _model() -> Reference:
    from models.config import DecoderConfig
    from models.decoder import build

    shape = {"vocab_size": 4096, "layers": 1, "width": 8, "heads": 1, "kv_heads": 1, "ffn": 8, "max_seq_len": 64}
    return Reference(build(DecoderConfig(**shape, end_of_text=0), 0), {}, None, None)


ENTRY_POINTS: dict[str, Callable[[Path], object]] = {
    "train and resume": lambda root: open_inputs(settings_of(root)),
    "evaluate": lambda root: questions(root / "run", facts_of(root), HeldoutSettings(), BenchmarkSettings()),  # type: ignore[arg-type]
    "export": lambda root: tokenizer_folder(root / "run", facts_of(root)),
    "score": _score,
    "inspect": lambda root: decoder_of(Tokens.open(root / "tokens")),
}


def exchanged(text: bytes, rng: np.random.Generator) -> bytes:
    """Return a tokenizer.json of the same size with two merges, or two entries of the vocabulary, swapped."""
    data = json.loads(text)
    merges, vocabulary = data["model"]["merges"], data["model"]["vocab"]
    if rng.random() < 0.5:
        one, other = (int(i) for i in rng.choice(len(merges), 2, replace=False))
        merges[one], merges[other] = merges[other], merges[one]
    else:
        names = sorted(vocabulary, key=vocabulary.__getitem__)
        width = len(str(len(names) - 1))
        same = [n for n in names if len(str(vocabulary[n])) == width]
        one, other = (same[int(i)] for i in rng.choice(len(same), 2, replace=False))
        vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]
    return (json.dumps(data, ensure_ascii=False, indent=1) + "\n").encode()


def problem_of(root: Path, whole: bytes, rng: np.random.Generator, forged: bool) -> str | None:
    """Put another tokenizer next to the tokens and try every entry point; return what went wrong."""
    other = exchanged(whole, rng)
    if len(other) != len(whole):
        return f"the other file has {len(other)} bytes, not {len(whole)}"
    manifest = (root / "tokens" / "manifest.json").read_bytes()
    (root / FILE).write_bytes(other)
    if forged:
        poison.forge(root / FILE)
    problems = []
    for name, entry in ENTRY_POINTS.items():
        try:
            entry(root)
            problems.append(f"{name} accepted it")
        except ValueError as error:
            if not any(part in str(error) for part in ("tokenizer.json", "the tokenizer of run")):
                problems.append(f"{name} does not name it: {error}")
    (root / FILE).write_bytes(whole)
    (root / "tokens" / "manifest.json").write_bytes(manifest)
    for name, entry in ENTRY_POINTS.items():
        try:
            entry(root)
        except ValueError as error:
            problems.append(f"{name} refuses the right one: {error}")
    return "; ".join(problems) or None


def run(count: int, seed: int, work: Path) -> Tally:
    """Change the tokenizer `count` times."""
    tally = Tally("tokenizers", seed=seed)
    root = work / "root"
    with quiet(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        make_run(root)
        whole = (root / FILE).read_bytes()
        for case in case_seeds(seed, count):
            tally.add(case, problem_of(root, whole, np.random.default_rng(case), forged=case % 2 == 1))
    shutil.rmtree(root)
    tally.notes.append(f"{len(ENTRY_POINTS)} entry points each")
    return tally
