"""python -m benchmarks.step_overhead

Overhead of the training loop per step. One side is `pdpc train` itself (reading, hooks, guards, records) with timers
around DeepSpeed's forward, backward and step: the time of a step outside them is the overhead, measured in one process.
The gradient norm counts as DeepSpeed's: its step uses ours instead of its own (train/engine/stand_ins.py), and the
other side's step computes it too. The other side makes only those three calls, with the same engine on the same
samples; the ratio of the two sides' steps also shows the cost of background threads, with the noise between processes.

Target: at most 1 % of a step, or 2 ms if that is more.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from statistics import median
from string import ascii_lowercase
from typing import Any

import numpy as np

from benchmarks.options import add_sizes, chosen, parser, say, work_folder
from benchmarks.processes import Facts, Settings, Side, measure
from benchmarks.report import Result, finish
from benchmarks.rounds import Check, column, interleave, ratios, spread

NAME = "step_overhead"
MOST_SHARE, MOST_S = 0.01, 0.002
WARM_UP = 5
"""Steps that are not counted: the first ones allocate memory."""


def write_data(folder: Path, settings: Settings) -> None:
    """Write TOKENS of random words, and an ORDER with one stage."""
    from curriculum.arrange import arrange
    from curriculum.text.text import TextSettings
    from curriculum.tokens import job
    from curriculum.tokens.settings import PrepareSettings
    from curriculum.tokens.tokenizer import TokenizerSettings

    draw = Random(settings["seed"])
    words = ["".join(draw.choices(ascii_lowercase, k=4)) for _ in range(2000)]
    samples = (settings["steps"] + WARM_UP + 1) * settings["batch_size"]
    folder.mkdir(parents=True)
    with open(folder / "text.jsonl", "w", encoding="utf-8") as file:
        for index in range(samples):  # a word is about two tokens: more than enough text
            text = " ".join(draw.choices(words, k=settings["length"]))
            file.write(json.dumps({"text": text, "source": ("a", "b")[index % 2]}) + "\n")
    job.run(
        PrepareSettings(
            input=TextSettings(paths=[str(folder / "text.jsonl")]),
            tokenizer=TokenizerSettings(name=f"train:{settings['vocabulary']}"),
            seq_len=settings["length"],
            validation_fraction=0.02,
            output=str(folder / "tokens"),
        )
    )
    arrange.run(
        arrange.ArrangeSettings(
            tokens=str(folder / "tokens"),
            output=str(folder / "order"),
            batch_size=settings["batch_size"],
            stages=1,
        )
    )


def train_settings(settings: Settings) -> Any:
    """Return the settings of `pdpc train`."""
    from train.config.compose import compose
    from train.settings import TrainSettings

    data = Path(settings["data"])
    sizes = [f"model.{key}={settings[key]}" for key in ("layers", "width", "heads", "kv_heads", "ffn")]
    words = ["arm=benchmark", f"data.tokens={data / 'tokens'}", f"data.order={data / 'order'}", *sizes]
    words += [f"output={data / 'run'}", "tracker=none", f"micro_batch_size={settings['micro_batch_size']}"]
    words += [f"zero.stage={settings['zero_stage']}", f"precision={settings['precision']}"]
    words += [f"threads={settings['threads']}", "heldout.max_samples=4"]
    return compose("train", TrainSettings, words)


class Clock:
    """The time spent in DeepSpeed's calls, and when each step ended."""

    def __init__(self) -> None:
        self.inside_s = 0.0
        self.ends: list[tuple[float, float]] = []
        """For each step: when it ended, and the time in DeepSpeed's calls up to then."""

    def around(self, call: Callable[..., Any], *, ends_step: bool = False) -> Callable[..., Any]:
        """Return a timed version of a call."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                now = time.perf_counter()
                self.inside_s += now - start
                if ends_step:
                    self.ends.append((now, self.inside_s))

        return timed

    def facts(self, steps: int) -> Facts:
        """Return medians over steps: seconds per whole step, and seconds per step outside DeepSpeed's calls."""
        ends = np.array(self.ends[WARM_UP : WARM_UP + steps + 1])
        assert len(ends) == steps + 1, f"{len(self.ends)} steps were taken, {WARM_UP + steps + 1} are needed"
        whole_S, inside_S = np.diff(ends, axis=0).T
        return {
            "seconds": median(whole_S),
            "outside_s": median(whole_S - inside_S),
            "outside_mean_s": float((whole_S - inside_S).mean()),
        }


def _run(settings: Settings) -> Facts:
    """Train as a user would."""
    from deepspeed.runtime.engine import DeepSpeedEngine

    from train.engine import Engine
    from train.run import train

    clock = Clock()
    shutil.rmtree(Path(settings["data"]) / "run", ignore_errors=True)
    for name in ("forward", "backward", "step"):
        setattr(DeepSpeedEngine, name, clock.around(getattr(DeepSpeedEngine, name), ends_step=name == "step"))
    Engine._global_norm = clock.around(Engine._global_norm)  # type: ignore[method-assign]
    train(train_settings(settings))
    return clock.facts(settings["steps"])


def _bare(settings: Settings) -> Facts:
    """Call only DeepSpeed."""
    from curriculum.order.order import Order
    from curriculum.tokens.tokens import Tokens
    from models.decoder import build
    from train.batches import batches
    from train.engine import Engine
    from train.engine.communication import start
    from train.objectives.language_model import LanguageModel

    made = train_settings(settings)
    world = start(settings["threads"])
    order, tokens = Order.open(made.data.order), Tokens.open(made.data.tokens, "train")
    config = made.model.decoder_config(tokens.vocab_size, tokens.seq_len, tokens.end_of_text)
    engine = Engine(build(config, made.seed, made.execution), made, order.batch_size, world)
    deepspeed, clock = engine._deepspeed, Clock()
    read = [
        [(ids, documents, batch.global_tokens) for ids, documents in batch.micro_batches]
        for batch, _ in zip(
            batches(order, tokens, world, made.micro_batch_size, 0, LanguageModel(tokens)),
            range(settings["steps"] + WARM_UP + 1),
            strict=False,
        )
    ]
    for batch in read:
        for ids_BS, documents, labels in batch:
            loss = deepspeed(ids_BS, documents).total / labels
            deepspeed.backward(loss, scale_wrt_gas=False)
            deepspeed.step()
        clock.ends.append((time.perf_counter(), 0.0))
    return {"seconds": clock.facts(settings["steps"])["seconds"]}


SIDES: dict[str, Side] = {"run": _run, "bare": _bare}


def main(arguments: list[str] | None = None) -> None:
    """Measure and report."""
    options = _options(arguments)
    settings = chosen(options)
    environment = {"OMP_NUM_THREADS": str(settings["threads"]), "DS_ACCELERATOR": "cpu", "WANDB_MODE": "disabled"}
    with work_folder(options.work) as work:
        data = work / NAME
        shutil.rmtree(data, ignore_errors=True)
        write_data(data, settings)
        given = {**settings, "data": str(data)}
        one = partial(_one_side, given, work, environment)
        measured = interleave(list(SIDES), options.rounds, one, say)
    outside = spread(column(measured, "run", "outside_s"))
    step_s = spread(column(measured, "run", "seconds")).median
    limit_s = max(MOST_SHARE * step_s, MOST_S)
    checks = [Check("outside DeepSpeed's calls, per step", outside.median * 1e3, limit_s * 1e3, "at most", "ms")]
    mean_ms = spread(column(measured, "run", "outside_mean_s")).median * 1e3
    low_ms, middle_ms, high_ms = (value * 1e3 for value in (outside.low, outside.median, outside.high))
    notes = [
        f"outside DeepSpeed's calls {middle_ms:.3g} ms ({low_ms:.3g} to {high_ms:.3g}) of a step of "
        f"{step_s * 1e3:.4g} ms: {outside.median / step_s:.2%}; mean including steps that log, {mean_ms:.3g} ms"
    ]
    compared = {"step of run / bare": ratios(column(measured, "run", "seconds"), column(measured, "bare", "seconds"))}
    finish(Result(NAME, settings, ("torch", "deepspeed"), measured, compared, checks, notes), keep=options.keep)


def _one_side(settings: dict[str, Any], work: Path, environment: dict[str, str], side: str) -> Facts:
    return measure(NAME, side, settings, work, environment)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    sizes = {
        "length": (256, "tokens per sample"),
        "batch_size": (8, "samples per step"),
        "micro_batch_size": (4, "samples per micro-batch"),
        "layers": (4, "blocks"),
        "width": (256, "width"),
        "heads": (4, "query heads"),
        "kv_heads": (2, "key and value heads"),
        "ffn": (704, "inner width of the feed-forward network"),
        "vocabulary": (2000, "vocabulary size"),
        "steps": (30, "measured steps"),
        "threads": (1, "CPU threads per side"),
    }
    add_sizes(made, sizes)
    made.add_argument("--zero-stage", type=int, choices=(0, 1, 2, 3), default=1, help="ZeRO stage (default 1)")
    made.add_argument(
        "--precision", choices=("bf16", "fp32"), default="bf16", help="fp32 for a CPU without bf16 units (default bf16)"
    )
    return made.parse_args(arguments)


if __name__ == "__main__":
    main()
