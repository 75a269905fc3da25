"""Shared fixtures: small artifacts, created once per session."""

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background of a shell; programs would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.update(
    OMP_NUM_THREADS="1",
    WANDB_MODE="offline",
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    TOKENIZERS_PARALLELISM="false",
    DS_ACCELERATOR="cpu",
    DEEPSPEED_LOG_LEVEL="warning",
)

from pathlib import Path

import numpy as np
import pytest

from curriculum.artifact.manifest import MANIFEST, checksum_of
from curriculum.scores.scores import Scores
from curriculum.tokens.tokens import Tokens
from tests.scores import Losses, write_scores

SLOWEST = (
    "tests/launch/demo/test_demo.py",
    "tests/torture/test_torture.py",
    "tests/train/test_runs.py",
    "tests/train/engine/test_engine_ranks.py",
    "tests/train/engine/test_engine.py",
    "tests/launch/executors/test_score_executors.py",
    "tests/train/hooks/test_guards_ranks.py",
    "tests/train/tracking/test_wandb.py",
    "tests/curriculum/arrange/test_arrangement.py",
    "tests/launch/test_cli.py",
    "tests/train/evaluation/harness/test_ranks.py",
    "tests/torture/test_hostile.py",
    "tests/launch/inspect/test_inspect.py",
    "tests/launch/demo/test_text.py",
    "tests/models/huggingface/test_foreign.py",
    "tests/train/report/test_making.py",
    "tests/train/engine/test_zero3.py",
    "tests/benchmarks/test_train_step.py",
    "tests/models/test_block_runner.py",
    "tests/launch/cluster/test_supervision.py",
    "tests/launch/study/test_jobs.py",
    "tests/train/report/wandb/test_workspace.py",
    "tests/models/huggingface/test_generations.py",
    "tests/launch/executors/test_prepare_executors.py",
    "tests/train/distributed/test_entry.py",
    "tests/models/test_golden.py",
    "tests/launch/probe/test_probe.py",
    "tests/train/report/wandb/test_read.py",
    "tests/models/attention/test_attention.py",
    "tests/train/objectives/test_preference.py",
    "tests/train/checkpoint/test_torture.py",
    "tests/benchmarks/test_gpu.py",
    "tests/train/report/test_page.py",
    "tests/train/config/test_flags.py",
    "tests/train/memory/test_footprint.py",
    "tests/curriculum/order/test_other_loops.py",
    "tests/models/losses/test_cross_entropy.py",
    "tests/train/test_initial.py",
    "tests/docs/test_extending.py",
    "tests/train/resume/test_attempts.py",
    "tests/train/evaluation/test_zero3.py",
    "tests/train/engine/test_nvme.py",
    "tests/train/test_execution.py",
    "tests/train/objectives/test_objective.py",
    "tests/train/export/test_weights.py",
    "tests/train/engine/test_patches.py",
    "tests/train/config/test_compose.py",
    "tests/train/distributed/test_rendezvous.py",
)
"""Files that take more than ten seconds, in the order in which they start."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the slowest files first: a worker takes whole files (--dist loadfile), so that short files fill the end."""
    place = {name: number for number, name in enumerate(SLOWEST)}
    items.sort(key=lambda item: place.get(item.nodeid.partition("::")[0], len(place)))


def write_text(folder: Path, documents: int, seed: int = 0) -> None:
    """Write JSON lines of text from two sources, one with a simple grammar and one with a larger vocabulary."""
    import json

    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    words = ["the", "cat", "dog", "sees", "likes", "a", "tree", "house", "and", "then", "runs", "sleeps"]
    with open(folder / "text.jsonl", "w") as file:
        for index in range(documents):
            source = ("easy", "hard")[index % 2]
            size = int(rng.integers(20, 120))
            if source == "easy":
                text = " ".join(words[(k * 5 + int(rng.integers(0, 2))) % len(words)] for k in range(size))
            else:
                text = " ".join("".join(chr(97 + int(c)) for c in rng.integers(0, 26, 5)) for _ in range(size // 2))
            file.write(json.dumps({"text": text, "source": source}) + "\n")


@pytest.fixture(scope="session")
def edit_manifest():
    """Return a function that edits an artifact's manifest and updates its checksum, like a deliberate change."""
    import json

    def edit(folder: Path, change) -> None:
        path = folder / MANIFEST
        fields = json.loads(path.read_text())
        change(fields)
        path.write_text(json.dumps({**fields, "checksum": checksum_of(fields)}))

    return edit


@pytest.fixture(scope="session")
def tokens_folder(tmp_path_factory) -> Path:
    """TOKENS of 600 short documents: seq_len 32, a byte-level vocabulary of 300."""
    from curriculum.text.text import TextSettings
    from curriculum.tokens.job import run
    from curriculum.tokens.settings import PrepareSettings
    from curriculum.tokens.tokenizer import TokenizerSettings

    root = tmp_path_factory.mktemp("artifacts")
    write_text(root / "text", 600)
    run(
        PrepareSettings(
            input=TextSettings(paths=[str(root / "text")]),
            tokenizer=TokenizerSettings(name="train:300"),
            seq_len=32,
            validation_fraction=0.1,
            reference_fraction=0.2,
            seed=1,
            output=str(root / "tokens"),
        )
    )
    return root / "tokens"


@pytest.fixture(scope="session")
def scores_folder(tokens_folder) -> Path:
    """SCORES with made-up losses in which the source `hard` has the higher PD."""
    folder = tokens_folder.parent / "scores"
    rng = np.random.default_rng(0)

    def losses(part: Tokens) -> Losses:
        strong = rng.uniform(2.0, 4.0, len(part)).astype(np.float32)
        gap = rng.normal(0.3 + 0.4 * part.source_of(np.arange(len(part))), 0.2).astype(np.float32)
        return {"weak": strong + gap, "strong": strong}

    return write_scores(folder, [Tokens.open(tokens_folder, name) for name in ("train", "validation")], losses)


@pytest.fixture(scope="session")
def forks():
    """A fork server with torch, DeepSpeed and our packages imported; one per pytest worker, shared by its files."""
    from tests.torture.forks import served

    with served() as server:
        server.ask("wait", pids=[], timeout_s=0)  # answers once its imports are done
        yield server


@pytest.fixture
def scores(scores_folder) -> Scores:
    return Scores.open(scores_folder)
