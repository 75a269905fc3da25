"""Shared by the harness tests: a tokenizer, tasks, and a small decoder with peaked distributions."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml

from models.config import DecoderConfig
from models.decoder import Decoder, build
from train.distributed.world import World
from train.evaluation.harness.tasks import BenchmarkSettings

SINGLE = World(0, 1, 0, 1, torch.device("cpu"))
MAX_LENGTH = 48
WORDS = [
    "the",
    "cat",
    "sees",
    "a",
    "small",
    "dog",
    "and",
    "then",
    "it",
    "runs",
    "to",
    "an",
    "old",
    "house",
    "by",
    "tall",
]
END = "<|end|>"


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(words))


def write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    rng = random.Random(0)
    tokenizer.train_from_iterator([sentence(rng, 12) for _ in range(200)], trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END, "pad_token": END}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_task(folder: Path, name: str, rows: list[dict[str, Any]], **config: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(task | {"test_split": "test"} | config))


CHOICE: dict[str, Any] = {
    "output_type": "multiple_choice",
    "doc_to_text": "context",
    "doc_to_choice": "choices",
    "doc_to_target": "answer",
    "target_delimiter": "",
    "metric_list": [
        {"metric": metric, "aggregation": "mean", "higher_is_better": True} for metric in ("acc", "acc_norm")
    ],
}


def write_tasks(folder: Path) -> None:
    """Write a four-way choice, a perplexity, a generation, two tasks that cannot run, and two that misbehave."""
    rng = random.Random(1)
    questions = [
        {
            "context": sentence(rng, rng.randint(1, 30)) if index else "",
            "choices": [" " + sentence(rng, rng.randint(1, 6)) for _ in range(4)],
            "answer": rng.randrange(4),
        }
        for index in range(15)
    ]
    write_task(folder, "choice", questions, **CHOICE)
    write_task(folder, "broken_field", questions, **(CHOICE | {"doc_to_text": "{{missing.field}}"}))
    write_task(folder, "no_data", questions, **CHOICE)
    (folder / "no_data.jsonl").unlink()
    texts = [{"text": sentence(rng, rng.randint(3, 90))} for _ in range(5)]
    perplexity = [{"metric": "bits_per_byte"}, {"metric": "word_perplexity"}]
    write_task(
        folder, "rolling", texts, output_type="loglikelihood_rolling", doc_to_text="", doc_to_target="text",
        metric_list=perplexity,
    )  # fmt: skip
    write_task(
        folder, "writing", [{"text": sentence(rng, 5), "answer": "x"} for _ in range(5)], output_type="generate_until",
        doc_to_text="text", doc_to_target="answer", generation_kwargs={"until": ["e"], "max_gen_toks": 9},
        metric_list=[{"metric": "exact_match"}],
    )  # fmt: skip
    write_misdeeds(folder, questions, CHOICE)


def write_misdeeds(folder: Path, questions: list[dict[str, Any]], config: dict[str, Any]) -> None:
    """Write two tasks that misbehave once their answers are there.

    `hangs` does so where HANGS is set; `deadly` ends the rank that FOLDER/death names.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "misdeeds.py").write_text(MISDEEDS)
    for name in ("hangs", "deadly"):
        write_task(folder, name, questions, **config)
        with open(folder / f"{name}.yaml", "a") as file:
            file.write(f"process_results: !function misdeeds.{name}\n")


MISDEEDS = """
import os
import time
from pathlib import Path


def hangs(doc, results):
    while os.environ.get("HANGS"):
        time.sleep(0.05)
    return {"acc": 1.0}


def deadly(doc, results):
    death = Path(__file__).parent / "death"
    if death.exists() and death.read_text() == os.environ.get("RANK"):
        os._exit(9)
    return {"acc": float(doc["answer"] == 0)}
"""


def make_decoder(end_of_text: int | None = 0) -> Decoder:
    config = DecoderConfig(
        vocab_size=300, layers=2, width=32, heads=4, kv_heads=2, ffn=48, max_seq_len=MAX_LENGTH, end_of_text=end_of_text
    )
    decoder = build(config, seed=3)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(4.0) if parameter.dim() > 1 else None
    return decoder


def settings_of(assets: Path, *tasks: str, **options: Any) -> BenchmarkSettings:
    return BenchmarkSettings(tasks=list(tasks), task_paths=[str(assets / "tasks")], batch_size=4, **options)


def requests(*arguments: Any) -> list[Any]:
    return [SimpleNamespace(args=each, task_name="test") for each in arguments]


def random_pairs() -> list[tuple[str, str]]:
    """Return contexts and continuations: empty and overlong contexts, spaces at the boundary, shared answers."""
    rng = random.Random(2)
    pairs = [(sentence(rng, rng.randint(1, 60)), " " + sentence(rng, rng.randint(1, 8))) for _ in range(12)]
    pairs += [("", "the cat"), ("the cat ", "sees"), ("the cat\n\n", " dog"), (END + "house", " cat")]
    return pairs + [("which one: ", letter) for letter in "ABCD"] + pairs[:2]
