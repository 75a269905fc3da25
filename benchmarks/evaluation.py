"""python -m benchmarks.evaluation [--questions FOLDER]

Multiple-choice requests answered by the same model: ours (model.py and scorer.py in train/evaluation/harness) compared
with lm-evaluation-harness's own HFLM on the exported folder, at the same batch size. Timed are encoding, forward passes
and log-likelihoods of all requests. Requests alternate between arc_easy and hellaswag, read from
FOLDER/arc_easy/*.parquet and FOLDER/hellaswag/*.parquet; without FOLDER, they are made-up questions with four answers.

Targets: no more time than HFLM; every request's log-likelihood within 1e-3 nats, and the same greedy answers except
for ties broken by rounding.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from functools import partial
from itertools import chain, zip_longest
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.options import add_sizes, chosen, parser, say, work_folder
from benchmarks.processes import Facts, Settings, Side, forget_peak, measure, peak_bytes, resident_bytes
from benchmarks.report import Result, finish
from benchmarks.rounds import Check, column, interleave, ratios, spread
from benchmarks.step_models import END_OF_TEXT, decoder_config

NAME = "evaluation"
MOST_TIME = 1.0
CLOSE = 1e-3
MOST_TIES = 0.005
"""Share of the requests in which rounding errors may flip the greedy token."""
END = "<|endoftext|>"
CHOICES = 4

Pair = tuple[str, str]


def main(arguments: list[str] | None = None) -> None:
    """Measure and report."""
    options = _options(arguments)
    settings: dict[str, Any] = chosen(options)
    settings["questions"] = "made up" if options.questions is None else "arc_easy, hellaswag"
    with work_folder(options.work) as work:
        pairs = requests(settings, options.questions)
        (work / "requests.json").write_text(json.dumps(pairs), "utf-8")
        given = {**settings, "requests_file": str(work / "requests.json"), "model": str(work / "model")}
        _write_model(given, pairs)
        environment = {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
        environment |= {"TOKENIZERS_PARALLELISM": "false"}
        measured = interleave(list(SIDES), options.rounds, partial(_one_side, given, work, environment), say)
    compared = {
        "time of ours / HFLM": ratios(column(measured, "ours", "seconds"), column(measured, "hflm", "seconds")),
        "memory of ours / HFLM": ratios(
            column(measured, "ours", "extra_bytes"), column(measured, "hflm", "extra_bytes")
        ),
    }
    mine, theirs = (measured[side][0] for side in ("ours", "hflm"))
    apart = float(np.abs(np.array(mine["nats"]) - np.array(theirs["nats"])).max())
    ties = float(np.mean(np.array(mine["greedy"]) != np.array(theirs["greedy"])))
    checks = [
        Check("time", spread(compared["time of ours / HFLM"]).median, MOST_TIME, "at most", "x"),
        Check("largest difference of a log-likelihood", apart, CLOSE, "at most", "nats"),
        Check("other greedy answers", ties, MOST_TIES, "at most"),
    ]
    for facts in chain(*measured.values()):
        del facts["nats"], facts["greedy"]
    settings["parameters"] = decoder_config(given).parameter_count()
    peers = ("torch", "transformers", "lm_eval")
    finish(Result(NAME, settings, peers, measured, compared, checks), keep=options.keep)


def _one_side(settings: dict[str, Any], work: Path, environment: dict[str, str], side: str) -> Facts:
    return measure(NAME, side, settings, work, environment)


def requests(settings: Settings, folder: Path | None) -> list[Pair]:
    """Return (context, continuation) of every request, from the questions in `folder`; None: made-up questions."""
    if folder is None:
        found = _made_up(settings)
    else:
        two = zip_longest(_arc(folder / "arc_easy"), _hellaswag(folder / "hellaswag"))
        found = (pair for both in two for question in both if question for pair in question)
    pairs = [pair for pair, _ in zip(found, range(settings["requests"]), strict=False)]
    if len(pairs) < settings["requests"]:
        raise SystemExit(f"--requests {settings['requests']}: there are only {len(pairs)}, request fewer")
    return pairs


def _made_up(settings: Settings) -> Iterator[Pair]:
    generator = np.random.default_rng(settings["seed"])
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))

    def words(count: int) -> str:
        return " ".join("".join(generator.choice(letters, generator.integers(2, 8))) for _ in range(count))

    while True:
        context = words(int(np.clip(generator.lognormal(3.2, 0.6), 3, 100)))
        for _ in range(CHOICES):
            yield context, " " + words(int(generator.integers(2, 16)))


def _rows(folder: Path) -> Iterator[dict[str, Any]]:
    from pyarrow import parquet

    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise SystemExit(f"--questions: {folder} contains no Parquet file")
    for file in files:
        yield from parquet.read_table(file).to_pylist()


def _arc(folder: Path) -> Iterator[list[Pair]]:
    for row in _rows(folder):
        yield [(f"Question: {row['question']}\nAnswer:", f" {text}") for text in row["choices"]["text"]]


def _hellaswag(folder: Path) -> Iterator[list[Pair]]:
    for row in _rows(folder):
        yield [(f"{row['activity_label']}: {row['ctx']}", f" {text}") for text in row["endings"]]


def ours(settings: Settings) -> Facts:
    """PDPC's harness model."""
    import torch

    from models.huggingface import load
    from train.distributed.collectives import Collectives
    from train.distributed.world import World
    from train.evaluation.harness.model import harness_model, load_tokenizer
    from train.evaluation.harness.scorer import Scorer

    decoder = load(Path(settings["model"]), torch.float32, end_of_text=END_OF_TEXT).eval()
    exchange = Collectives(World(0, 1, 0, 1, torch.device("cpu")))
    scorer = Scorer(decoder, exchange, settings["length"], settings["batch_size"])
    return _timed(settings, harness_model(scorer, load_tokenizer(Path(settings["model"]))))


def hflm(settings: Settings) -> Facts:
    """The harness's own model."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoModelForCausalLM

    from train.evaluation.harness.model import load_tokenizer

    model = AutoModelForCausalLM.from_pretrained(settings["model"], dtype=torch.float32)
    made = HFLM(
        pretrained=model,
        tokenizer=load_tokenizer(Path(settings["model"])),
        device="cpu",
        batch_size=settings["batch_size"],
        max_length=settings["length"],
    )
    return _timed(settings, made)


SIDES: dict[str, Side] = {"ours": ours, "hflm": hflm}


def _timed(settings: Settings, model: Any) -> Facts:
    import torch

    torch.set_num_threads(settings["threads"])
    pairs = json.loads(Path(settings["requests_file"]).read_text("utf-8"))
    asked = [SimpleNamespace(args=tuple(pair), task_name=NAME) for pair in pairs]
    with torch.inference_mode():
        model.loglikelihood(asked[:CHOICES], disable_tqdm=True)
        forget_peak()
        before = resident_bytes()
        started = time.perf_counter()
        answers = model.loglikelihood(asked, disable_tqdm=True)
        seconds = time.perf_counter() - started
    nats, greedy = zip(*answers, strict=True)
    extra = max(1, peak_bytes() - before)
    return {"seconds": seconds, "nats": nats, "greedy": list(map(bool, greedy)), "extra_bytes": extra}


def _write_model(settings: Settings, pairs: list[Pair]) -> None:
    """Write a random model with a tokenizer trained on the requests."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from models.decoder import build
    from models.huggingface import export

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings["vocabulary"],
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chain(*pairs), trainer)
    folder = Path(settings["model"])
    place = folder.with_name("tokenizer")
    place.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(place / "tokenizer.json"))
    names = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": END, "eos_token": END, "pad_token": END}
    (place / "tokenizer_config.json").write_text(json.dumps(names), "utf-8")
    config = decoder_config(settings)
    # The requested vocabulary size even if the tokenizer has fewer tokens: the logits dominate the cost.
    state = build(config, settings["seed"]).state_dict()
    export(folder, config, state, dtype=torch.float32, tokenizer_folder=place, card=None)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    sizes = {
        "requests": (1000, "requests"),
        "layers": (8, "blocks of the model"),
        "width": (512, "width of the residual stream"),
        "heads": (8, "query heads"),
        "kv-heads": (8, "key and value heads"),
        "ffn": (1408, "inner width of the feed-forward network"),
        "vocabulary": (32000, "vocabulary size of the model"),
        "length": (1024, "maximum input length in tokens"),
        "batch-size": (16, "rows per forward pass"),
        "threads": (1, "CPU threads per side"),
    }
    add_sizes(made, sizes)
    made.add_argument("--questions", type=Path, help="folder with arc_easy/ and hellaswag/ as Parquet (default: none)")
    return made.parse_args(arguments)


if __name__ == "__main__":
    main()
