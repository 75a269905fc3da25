"""python -m benchmarks.scoring

Documents scored by the same model: ours packs them into rows and computes the loss in chunks; it is compared with the
Hugging Face model on padded batches with full logits, in order of arrival, and sorted by length as in
lm-evaluation-harness (log_softmax over all logits). Lengths are log-normal. Then two models in one `pdpc score`,
compared with two runs.

Targets: 2.5 and 1.5 times their real tokens/s; at most 1/8 of their memory on top of the model; 85 % of the forward
roof (the bare forward pass over random tokens in documents of the same lengths); every document's mean loss within
1e-3; one run with two models faster than two runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.options import add_sizes, chosen, parser, say, work_folder
from benchmarks.processes import Facts, Settings, Side, forget_peak, measure, peak_bytes, resident_bytes
from benchmarks.report import Result, finish
from benchmarks.rounds import Check, column, interleave, ratios, spread
from benchmarks.step_models import END_OF_TEXT, decoder_config

NAME = "scoring"
TARGETS = {"padded": 2.5, "harness": 1.5}
LEAST_OF_ROOF = 0.85
MOST_MEMORY = 1 / 8
CLOSE = 1e-3
SPREAD = 0.8
"""Standard deviation of the logarithm of the document lengths."""


def main(arguments: list[str] | None = None) -> None:
    """Measure and report."""
    options = _options(arguments)
    settings: dict[str, Any] = chosen(options)
    with work_folder(options.work) as work:
        given = {**settings, "models": str(work / "models"), "scratch": str(work / "runs")}
        _write_models(given)
        sides = list(SIDES) if options.samples else [side for side in SIDES if not side.endswith("run")]
        if options.samples:
            given["tokens_folder"] = str(_write_tokens(given, work))
        environment = {"OMP_NUM_THREADS": str(options.threads), "HF_HUB_OFFLINE": "1"}
        measured = interleave(sides, options.rounds, partial(_one_side, given, work, environment), say)
    ours = column(measured, "packed", "seconds")
    compared = {f"tokens/s of packed / {side}": ratios(column(measured, side, "seconds"), ours) for side in TARGETS}
    compared["tokens/s of packed / roof"] = ratios(column(measured, "roof", "seconds"), ours)
    memory = column(measured, "packed", "extra_bytes")
    compared |= {
        f"memory of packed / {side}": ratios(memory, column(measured, side, "extra_bytes")) for side in TARGETS
    }
    checks = [
        Check(f"tokens/s, {side}", spread(compared[f"tokens/s of packed / {side}"]).median, target, "at least", "x")
        for side, target in TARGETS.items()
    ]
    checks.append(
        Check("share of the roof", spread(compared["tokens/s of packed / roof"]).median, LEAST_OF_ROOF, "at least")
    )
    checks += [
        Check(f"memory, {side}", spread(compared[f"memory of packed / {side}"]).median, MOST_MEMORY, "at most", "x")
        for side in TARGETS
    ]
    apart = max(_apart(measured, side) for side in TARGETS)
    checks.append(Check("largest difference of a mean loss", apart, CLOSE, "at most", "nats"))
    if options.samples:
        compared["time of two runs / one run"] = ratios(
            column(measured, "two_run", "seconds"), column(measured, "one_run", "seconds")
        )
        checks.append(Check("two models", spread(compared["time of two runs / one run"]).median, 1.0, "at least", "x"))
    real = float(measured["packed"][0]["tokens"])
    notes = [f"{side}: {real / spread(column(measured, side, 'seconds')).median:,.0f} real tokens/s" for side in MODELS]
    for facts in (facts for rounds in measured.values() for facts in rounds):
        facts.pop("losses", None)
    settings["parameters"] = decoder_config(given).parameter_count()
    finish(Result(NAME, settings, ("torch", "transformers"), measured, compared, checks, notes), keep=options.keep)


def _one_side(settings: dict[str, Any], work: Path, environment: dict[str, str], side: str) -> Facts:
    return measure(NAME, side, settings, work, environment)


def _apart(measured: dict[str, list[dict[str, Any]]], side: str) -> float:
    mine, theirs = (np.array(measured[name][0]["losses"]) for name in ("packed", side))
    return float(np.abs(mine - theirs).max())


def documents(settings: Settings) -> list[list[int]]:
    """Return the token ids of documents of log-normal lengths; each starts with END_OF_TEXT, the rest are labels."""
    generator = np.random.default_rng(settings["seed"])
    lengths = np.exp(generator.normal(np.log(settings["document"]), SPREAD, settings["documents"]))
    lengths = np.clip(lengths.astype(int), 8, settings["length"])
    return [[END_OF_TEXT, *generator.integers(1, settings["vocabulary"], length).tolist()] for length in lengths]


def packed(settings: Settings) -> Facts:
    """Ours: documents packed into rows of at most `batch` tokens."""
    import torch

    decoder = _ours(settings)

    def score(texts: list[list[int]]) -> list[float]:
        means = []
        for batch in _rows(texts, settings["batch"]):
            losses = decoder.losses(torch.tensor([[token for ids in batch for token in ids] + [END_OF_TEXT]]))[0]
            ends = np.cumsum([len(ids) for ids in batch])
            means += [float(losses[e - len(i) : e - 1].mean()) for e, i in zip(ends, batch, strict=True)]
        return means

    return _timed(settings, score)


def roof(settings: Settings) -> Facts:
    """The bare forward pass over random tokens in documents of the same lengths, without a loss."""
    import torch

    from models.attention import Documents
    from models.losses.cross_entropy import CHUNK_LOGITS

    decoder = _ours(settings)
    vocabulary = settings["vocabulary"]
    rows = CHUNK_LOGITS // vocabulary
    logits = torch.empty(rows, vocabulary)

    def score(texts: list[list[int]]) -> list[float]:
        with torch.inference_mode():
            for batch in _rows(texts, settings["batch"]):
                lengths = tuple(len(ids) for ids in batch)
                ids = torch.randint(1, vocabulary, (1, sum(lengths)))
                hidden = decoder.hidden(ids, Documents(lengths))[0]
                for part in hidden.split(rows):
                    torch.mm(part, decoder.head.weight.t(), out=logits[: len(part)])
        return []

    return _timed(settings, score)


def padded(settings: Settings) -> Facts:
    """The Hugging Face model on padded batches in order of arrival, log_softmax over all logits."""
    return _transformers(settings, lambda texts: list(range(len(texts))))


def harness(settings: Settings) -> Facts:
    """As in lm-evaluation-harness: sorted by length, longest first, log_softmax over all logits."""
    return _transformers(settings, lambda texts: sorted(range(len(texts)), key=lambda i: -len(texts[i])))


def one_run(settings: Settings) -> Facts:
    """Two models in one `pdpc score`."""
    return _pdpc(settings, [("weak", "strong")])


def two_run(settings: Settings) -> Facts:
    """Two models in two runs of `pdpc score`."""
    return _pdpc(settings, [("weak",), ("strong",)])


MODELS = ("packed", "roof", "padded", "harness")
SIDES: dict[str, Side] = {
    "packed": packed,
    "roof": roof,
    "padded": padded,
    "harness": harness,
    "one_run": one_run,
    "two_run": two_run,
}


def _transformers(settings: Settings, order: Callable[[list[list[int]]], list[int]]) -> Facts:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(Path(settings["models"]) / "weak", dtype=torch.float32).eval()

    def score(texts: list[list[int]]) -> list[float]:
        means = [0.0] * len(texts)
        places = order(texts)
        with torch.inference_mode():
            for start in range(0, len(places), settings["batch_size"]):
                batch = places[start : start + settings["batch_size"]]
                longest = max(len(texts[i]) for i in batch)
                ids = torch.tensor([texts[i] + [END_OF_TEXT] * (longest - len(texts[i])) for i in batch])
                mask = torch.tensor([[1] * len(texts[i]) + [0] * (longest - len(texts[i])) for i in batch])
                logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
                log_p = torch.log_softmax(logits.float(), dim=-1)
                found = -log_p[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
                for row, i in enumerate(batch):
                    means[i] = float(found[row, : len(texts[i]) - 1].mean())
        return means

    return _timed(settings, score)


def _timed(settings: Settings, score: Callable[[list[list[int]]], list[float]]) -> Facts:
    import torch

    torch.set_num_threads(settings["threads"])
    texts = documents(settings)
    score(texts[:1])
    forget_peak()
    before = resident_bytes()
    started = time.perf_counter()
    losses = score(texts)
    seconds = time.perf_counter() - started
    tokens = sum(len(ids) - 1 for ids in texts)
    return {"seconds": seconds, "tokens": tokens, "losses": losses, "extra_bytes": max(1, peak_bytes() - before)}


def _rows(texts: list[list[int]], most: int) -> Iterator[list[list[int]]]:
    batch: list[list[int]] = []
    for ids in texts:
        if batch and sum(map(len, batch)) + len(ids) > most:
            yield batch
            batch = []
        batch.append(ids)
    yield batch


def _ours(settings: Settings) -> Any:
    import torch

    from models.huggingface import load

    return load(Path(settings["models"]) / "weak", torch.float32, end_of_text=END_OF_TEXT).eval()


def _write_models(settings: Settings) -> None:
    """Write the models as Hugging Face folders: weak and strong, of the same size."""
    import torch

    from models.decoder import build
    from models.huggingface import export

    config = decoder_config(settings)
    for seed, name in enumerate(("weak", "strong")):
        folder = Path(settings["models"]) / name
        if not folder.exists():
            state = build(config, seed).state_dict()
            export(folder, config, state, dtype=torch.float32, tokenizer_folder=None, card=None)


def _write_tokens(settings: Settings, work: Path) -> Path:
    """Write TOKENS of random letters for `pdpc score`, with a byte vocabulary that fits both models."""
    from curriculum.text.text import TextSettings
    from curriculum.tokens.job import run
    from curriculum.tokens.settings import PrepareSettings
    from curriculum.tokens.tokenizer import TokenizerSettings

    folder, text = work / "tokens", work / "text.jsonl"
    if not folder.exists():
        generator = np.random.default_rng(settings["seed"])
        with open(text, "w") as file:
            for _ in range(settings["samples"]):
                letters = "".join(
                    chr(97 + int(c)) for c in np.atleast_1d(generator.integers(0, 26, settings["length"]))
                )
                file.write(json.dumps({"text": letters, "source": "random"}) + "\n")
        made = TokenizerSettings(name="train:257")
        source = TextSettings(paths=[str(text)])
        run(PrepareSettings(source, made, settings["length"], 0.0, 0.0, output=str(folder)))
    return folder


def _pdpc(settings: Settings, runs: list[tuple[str, ...]]) -> Facts:
    import shutil

    scratch = Path(settings["scratch"])
    shutil.rmtree(scratch, ignore_errors=True)
    started = time.perf_counter()
    for number, names in enumerate(runs):
        words = [f"models.{name}={settings['models']}/{name}" for name in names]
        words += [f"same_tokens=[{','.join(names)}]", f"tokens={settings['tokens_folder']}", "slices=[train]"]
        words += [f"output={scratch}/{number}", "batch_size=8", f"threads={settings['threads']}", "processes=1"]
        command = [sys.executable, "-m", "launch.cli", "score", *words]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": os.getcwd()})
    return {"seconds": time.perf_counter() - started}


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    sizes = {
        "layers": (8, "blocks of the model"),
        "width": (512, "width of the residual stream"),
        "heads": (8, "query heads"),
        "kv-heads": (8, "key and value heads"),
        "ffn": (1408, "inner width of the feed-forward network"),
        "vocabulary": (32000, "vocabulary size of the model"),
        "length": (1024, "maximum document length in tokens"),
        "document": (200, "median document length in tokens"),
        "documents": (96, "number of documents"),
        "batch": (4096, "tokens per packed row of ours"),
        "batch-size": (16, "documents per padded batch"),
        "threads": (1, "CPU threads per side"),
    }
    add_sizes(made, sizes)
    made.add_argument("--samples", type=int, default=48, help="samples for one run and two runs (default 48; 0: skip)")
    return made.parse_args(arguments)


if __name__ == "__main__":
    main()
