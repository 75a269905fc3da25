import json
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from curriculum.artifact.files import ArtifactError
from curriculum.artifact.manifest import open_manifest, verify
from curriculum.tokens.tokens import Tokens
from launch.demo.benchmark import build
from train.evaluation.harness.tasks import BenchmarkSettings, task_files_fingerprint

SIZES = {"questions": 24, "seed": 3, "context_tokens": 20, "continuation_tokens": 8}


@dataclass
class HeldOut:
    """The part of `Tokens` that the benchmark uses."""

    texts: list[tuple[str, str]]
    tokenizer_folder: Path
    fingerprint: str = "abc"

    @property
    def documents(self) -> int:
        return len(self.texts)

    def document(self, index: int) -> tuple[str, npt.NDArray[np.int64]]:
        source, text = self.texts[index]
        tokenizer = Tokenizer.from_file(str(self.tokenizer_folder / "tokenizer.json"))
        return source, np.array(tokenizer.encode(text).ids, dtype=np.int64)


def article(rng: random.Random, words: list[str], number: int) -> str:
    return " ".join(rng.choice(words) for _ in range(number))


@pytest.fixture
def held_out(tmp_path: Path) -> HeldOut:
    rng = random.Random(0)
    vocabulary = {
        "animals": ["cat", "dog", "owl", "fox", "hen", "eel", "ape", "bat", "cow", "elk", "gnu", "jay"],
        "cities": ["Łódź", "東京", "Bonn", "Lima", "Oslo", "Rome", "Cairo", "Delhi", "Kyiv", "Paris"],
    }
    texts = [(source, article(rng, words, 150)) for source, words in vocabulary.items() for _ in range(8)]
    texts += [("tiny", "too short"), *(("lonely", article(rng, ["one", "two"], 150)) for _ in range(3))]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    # with 260 tokens most characters of 東京 are several tokens: cuts that split them must be skipped
    trainer = trainers.BpeTrainer(vocab_size=260, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([text for _, text in texts], trainer)
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return HeldOut(texts, folder)


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in open(folder / "continuation.jsonl", encoding="utf-8")]


def make(held_out: HeldOut, folder: Path, **changes: int) -> list[dict[str, Any]]:
    build(cast(Tokens, held_out), folder, **{**SIZES, **changes})
    return rows_of(folder)


def test_right_continuation_is_the_real_one_and_the_others_are_foreign(held_out: HeldOut, tmp_path: Path) -> None:
    rows = make(held_out, tmp_path / "benchmark")
    verify(tmp_path / "benchmark")
    assert len(rows) == 24
    texts = {source: [text for name, text in held_out.texts if name == source] for source, _ in held_out.texts}
    for row in rows:
        own = [text for text in texts[row["source"]] if row["context"] + row["choices"][row["answer"]] in text]
        assert len(own) == 1
        assert len({choice.strip() for choice in row["choices"]}) == 4
        for place, choice in enumerate(row["choices"]):
            assert any(choice in text for text in texts[row["source"]])
            assert "\ufffd" not in choice
            if place != row["answer"]:
                assert row["context"] + choice not in own[0]
    assert len({row["context"] for row in rows}) == 24


def test_answers_and_sources_are_balanced(held_out: HeldOut, tmp_path: Path) -> None:
    rows = make(held_out, tmp_path / "benchmark")
    assert Counter(row["answer"] for row in rows) == {0: 6, 1: 6, 2: 6, 3: 6}
    facts = open_manifest(tmp_path / "benchmark", "benchmark").facts
    assert facts["questions_by_source"] == {"animals": 12, "cities": 12}
    assert facts["left_out"]["documents too short"] == 1
    assert facts["left_out"]["sources with too few long documents"] == 1
    assert facts["left_out"]["stretches that split a character or say nothing"] > 0


def test_seed_decides(held_out: HeldOut, tmp_path: Path) -> None:
    first = make(held_out, tmp_path / "a")
    assert make(held_out, tmp_path / "b") == first
    assert make(held_out, tmp_path / "c", seed=4) != first


def test_whole_benchmark_is_kept_and_another_is_refused(held_out: HeldOut, tmp_path: Path) -> None:
    make(held_out, tmp_path / "a")
    stamp = (tmp_path / "a" / "manifest.json").stat().st_mtime_ns
    make(held_out, tmp_path / "a")
    assert (tmp_path / "a" / "manifest.json").stat().st_mtime_ns == stamp
    with pytest.raises(ArtifactError, match="seed: found 3, requested 9"):
        make(held_out, tmp_path / "a", seed=9)


def test_invalid_sizes_are_refused(held_out: HeldOut, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"questions=5000, but the slice has only [0-9]+ stretches of 28 tokens"):
        make(held_out, tmp_path / "a", questions=5000)
    with pytest.raises(ValueError, match="context_tokens=0 must be at least 1"):
        make(held_out, tmp_path / "a", context_tokens=0)
    (held_out.tokenizer_folder / "tokenizer.json").unlink()
    with pytest.raises(ArtifactError, match=r"tokenizer\.json is missing"):
        make(held_out, tmp_path / "a")
    assert not (tmp_path / "a").exists()


ORACLE = """
import json, sys
import lm_eval
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

folder = sys.argv[1]
rows = [json.loads(line) for line in open(folder + "/continuation.jsonl", encoding="utf-8")]
right = {(row["context"], row["choices"][row["answer"]]) for row in rows}
offered = {(row["context"], choice) for row in rows for choice in row["choices"]}

class Oracle(LM):
    def loglikelihood(self, requests):
        assert {one.args for one in requests} == offered
        return [(0.0 if one.args in right else -1.0, False) for one in requests]
    def loglikelihood_rolling(self, requests): raise NotImplementedError
    def generate_until(self, requests): raise NotImplementedError

manager = TaskManager(include_path=folder, include_defaults=False)
found = lm_eval.simple_evaluate(model=Oracle(), tasks=["continuation"], task_manager=manager, bootstrap_iters=0)
scores = found["results"]["continuation"]
print("SCORES", scores["acc,none"], scores["acc_norm,none"], found["n-samples"]["continuation"]["effective"])
"""


def test_the_harness_loads_it_offline(held_out: HeldOut, tmp_path: Path) -> None:
    make(held_out, tmp_path / "benchmark")
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")}
    done = subprocess.run(
        [sys.executable, "-c", ORACLE, str(tmp_path / "benchmark")],
        env={**os.environ, **offline, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "SCORES 1.0 1.0 24" in done.stdout, done.stderr[-3000:]


def test_a_benchmark_is_identified_by_its_questions_and_not_by_its_path(held_out: HeldOut, tmp_path: Path) -> None:
    prints = []
    for place, seed in (("here", 3), ("there", 3), ("else", 4)):
        make(held_out, tmp_path / place, seed=seed)
        settings = BenchmarkSettings(tasks=["continuation"], task_paths=[str(tmp_path / place)])
        prints.append(task_files_fingerprint(settings))
    here, there, other = prints
    assert here == there
    assert here != other
