"""python -m benchmarks.train_step

Training steps of one Llama in bf16 on the CPU: ours (Engine: DeepSpeed ZeRO 1, float32 master weights) compared with
Hugging Face's Trainer with LlamaForCausalLM (bf16=True), on samples of one document and on packed ones (for Trainer:
position_ids that restart at each document, no attention mask, no cache), and with litgpt's model in our engine. Every
side gets the same tokens and makes one AdamW step per batch. Also reported is the share of the machine's bf16 matmul
rate, measured in the same process before and after the steps.

Targets: at least 1.15 times as fast as Trainer on single documents and 1.3 times on packed ones, not slower than
litgpt; at least 55 % of the matmul rate. Memory is measured by benchmarks.step_memory.
"""

from __future__ import annotations

import argparse
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import step_models
from benchmarks.options import add_sizes, chosen, parser, say, size, work_folder
from benchmarks.processes import Facts, Settings, Side, forget_peak, measure, peak_bytes, resident_bytes
from benchmarks.report import Result, finish
from benchmarks.rounds import Check, column, interleave, ratios, spread

NAME = "train_step"
OURS, OURS_PACKED = "pdpc", "pdpc_packed"
LEAST_TIMES = {("trainer", OURS): 1.15, ("trainer_packed", OURS_PACKED): 1.3, ("litgpt", OURS): 1.0}
LEAST_SHARE = 0.55
PRODUCT = 2048
"""Maximum rows and columns of the matrices that measure the machine's rate."""
CLEAR_S = 0.02
"""Smaller matrices suffice if their product takes this long: without bf16 units, a CPU takes minutes for PRODUCT."""


def matmul_rate(repeats: int = 6) -> float:
    """Return the bf16 matmul rate of this process's threads in operations per second: the median of a few runs."""
    import torch

    size, taken = 128, [0.0]
    while size < PRODUCT and taken[-1] < CLEAR_S:
        size *= 2
        left, right = (torch.randn(size, size).bfloat16() for _ in range(2))
        taken = []
        for _ in range(repeats):
            start = time.perf_counter()
            torch.mm(left, right)
            taken.append(time.perf_counter() - start)
    return 2 * size**3 / spread(taken[1:]).median


class Meter:
    """Time and memory of the steps after the warm-up."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.before_bytes = resident_bytes()
        self.start = self.seconds = self.start_processor_s = self.processor_s = 0.0
        self.held_bytes = 0

    def begin_step(self, number: int) -> None:
        """Start timing when the warm-up ends."""
        if number == self.settings["warm_up"]:
            forget_peak()
            self.start, self.start_processor_s = time.perf_counter(), time.process_time()

    def end_step(self, number: int) -> None:
        """Stop timing after the last step."""
        if number == self.settings["warm_up"] + self.settings["steps"] - 1:
            self.seconds = time.perf_counter() - self.start
            self.processor_s = time.process_time() - self.start_processor_s
            self.held_bytes = peak_bytes()

    def facts(self, loss: float) -> Facts:
        """Return the measurements. Raises ValueError for a loss that is implausible on random tokens."""
        expected = math.log(self.settings["vocabulary"])
        if not abs(loss - expected) < 0.25 * expected:
            raise ValueError(f"the last loss is {loss}, far from log(vocabulary) = {expected:.2f}: it did not train")
        tokens = self.settings["steps"] * self.settings["batch_size"] * self.settings["length"]
        return {
            "seconds": self.seconds,
            "processor_s": self.processor_s,
            "tokens": tokens,
            "tokens_per_s": tokens / self.seconds,
            "step_bytes": self.held_bytes - self.before_bytes,
            "loss": loss,
        }


def _in_our_engine(make: Callable[[], Any], settings: Settings, *, packed: bool) -> Facts:
    """Train a module with Decoder's interface in the product's engine, timing the same calls as train/loop.py makes."""
    import torch

    from models.attention import Documents
    from train.engine import Engine
    from train.engine.communication import start
    from train.settings import DataSettings, ModelSettings, TrainSettings

    world = start(settings["threads"])  # before Meter, so that importing DeepSpeed does not count as memory of a step
    meter = Meter(settings)

    size_keys = ("layers", "width", "heads", "kv_heads", "ffn")
    train = TrainSettings(
        output="none",
        arm="benchmark",
        data=DataSettings("none", "none"),
        model=ModelSettings(**{key: settings[key] for key in size_keys}),
        micro_batch_size=settings["batch_size"],
    )
    engine = Engine(make().train(), train, settings["batch_size"], world)
    loss_sum = torch.zeros(())
    for number, ids_BS in enumerate(step_models.batches(settings, packed=packed)):
        meter.begin_step(number)
        losses = engine(ids_BS, Documents.of(ids_BS[:, :-1], step_models.END_OF_TEXT))
        tokens = ids_BS[:, 1:].numel()
        engine.backward(losses.total / tokens)
        engine.step()
        loss_sum = losses.total.detach() / tokens
        meter.end_step(number)
    return meter.facts(float(loss_sum))


def _ours(settings: Settings, *, packed: bool) -> Facts:
    import torch

    from models.decoder import build

    torch.set_num_threads(settings["threads"])
    config = step_models.decoder_config(settings)
    before = matmul_rate()
    facts = _in_our_engine(partial(build, config, settings["seed"]), settings, packed=packed)
    rate = (before + matmul_rate()) / 2
    shares = {
        name: facts["tokens_per_s"] * config.operations_per_token(settings["length"], causal=causal) / rate
        for name, causal in (("matmul_share", True), ("matmul_share_full", False))
    }
    return {**facts, "matmul_per_s": rate, **shares}


def _litgpt(settings: Settings) -> Facts:
    import litgpt.model  # noqa: F401  # before memory is measured
    import torch

    torch.manual_seed(settings["seed"])
    return _in_our_engine(partial(step_models.litgpt_with_losses, settings), settings, packed=False)


def _trainer(settings: Settings, *, packed: bool) -> Facts:
    """Hugging Face's Trainer with its usual settings, timed from the first step after the warm-up to the last."""
    import accelerate  # noqa: F401  # before memory is measured
    import torch
    from transformers import (
        LlamaForCausalLM,  # noqa: F401
        Trainer,
        TrainerCallback,
        TrainingArguments,
        set_seed,
    )

    torch.set_num_threads(settings["threads"])
    set_seed(settings["seed"])
    meter = Meter(settings)

    class Clock(TrainerCallback):  # type: ignore[misc]  # transformers has no types here
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            meter.begin_step(state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            meter.end_step(state.global_step - 1)

    rows_NT = step_models.batches(settings, packed=packed).flatten(0, 1)[:, :-1]
    rows = [{"input_ids": row_T, "labels": row_T} for row_T in rows_NT]
    if packed:
        for row, place_T in zip(rows, step_models.positions(rows_NT), strict=True):
            row["position_ids"] = place_T
    steps = settings["warm_up"] + settings["steps"]
    arguments = TrainingArguments(
        output_dir=settings["scratch"],
        per_device_train_batch_size=settings["batch_size"],
        max_steps=steps,
        bf16=True,
        use_cpu=True,
        save_strategy="no",
        report_to=[],
        logging_steps=steps,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=settings["seed"],
    )
    trainer = Trainer(model=step_models.llama(settings), args=arguments, train_dataset=rows, callbacks=[Clock()])
    trainer.train()
    return meter.facts(float(trainer.state.log_history[0]["loss"]))


SIDES: dict[str, Side] = {
    OURS: partial(_ours, packed=False),
    "trainer": partial(_trainer, packed=False),
    "litgpt": _litgpt,
    OURS_PACKED: partial(_ours, packed=True),
    "trainer_packed": partial(_trainer, packed=True),
}

Measured = Mapping[str, Sequence[Mapping[str, Any]]]


def conclude(measured: Measured) -> tuple[dict[str, list[float]], list[Check], list[str]]:
    """Return the ratios, checks and notes for the measured sides."""
    compared: dict[str, list[float]] = {}
    checks = []
    for (peer, ours), least in LEAST_TIMES.items():
        if peer in measured and ours in measured:
            values = ratios(column(measured, ours, "tokens_per_s"), column(measured, peer, "tokens_per_s"))
            compared[f"speed of {ours} / {peer}"] = values
            checks.append(Check(f"{ours} as fast as {peer}", spread(values).median, least, "at least", "x"))
    if OURS in measured:
        share = column(measured, OURS, "matmul_share")
        compared["share of the matrix-product rate"] = share
        checks.append(Check("share of the matrix-product rate", spread(share).median, LEAST_SHARE, "at least"))
    notes = [
        f"{side}: {spread(column(measured, side, 'tokens_per_s')).median:,.0f} tokens/s, "
        f"{spread(column(measured, side, 'processor_s')).median:.1f} s of CPU time (medians)"
        for side in measured
    ]
    if OURS in measured:
        rate, full = (spread(column(measured, OURS, name)).median for name in ("matmul_per_s", "matmul_share_full"))
        notes.append(
            f"matrix products: {rate / 1e9:,.0f} GFLOP/s in bf16; the share counts 6 operations per matrix "
            f"parameter and token, and causal attention ({full:.1%} with full attention)"
        )
    return compared, checks, notes


def main(arguments: list[str] | None = None) -> None:
    """Measure and report."""
    options = _options(arguments)
    settings = {**chosen(options), "threads": options.threads or len(os.sched_getaffinity(0))}
    environment = environment_of(settings)
    with work_folder(options.work) as work:
        given = {**settings, "scratch": str(work / "trainer")}
        measured = interleave(options.sides, options.rounds, partial(_one_side, given, work, environment), say)
    compared, checks, notes = conclude(measured)
    parameters = step_models.decoder_config(settings).parameter_count()
    peers = ("torch", "transformers", "accelerate", "deepspeed", "litgpt")
    settings = {**settings, "parameters": parameters, "sides": " ".join(options.sides)}
    finish(Result(NAME, settings, peers, measured, compared, checks, notes), keep=options.keep)


def environment_of(settings: Settings) -> dict[str, str]:
    """Return the environment variables for the process of every side."""
    return {"OMP_NUM_THREADS": str(settings["threads"]), "DS_ACCELERATOR": "cpu", "WANDB_MODE": "disabled"}


def _one_side(settings: dict[str, Any], work: Path, environment: Mapping[str, str], side: str) -> Facts:
    return measure(NAME, side, settings, work, environment)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    add_model_sizes(made, steps=3)
    made.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="sides to measure (default: all)")
    return made.parse_args(arguments)


def add_model_sizes(made: argparse.ArgumentParser, *, steps: int) -> None:
    """Add the options for the model's shape, the samples and the steps."""
    sizes = {
        "length": (1024, "tokens per sample"),
        "batch_size": (2, "samples per step"),
        "document": (256, "mean tokens per document in a packed sample"),
        "layers": (6, "blocks"),
        "width": (512, "width"),
        "heads": (8, "query heads"),
        "kv_heads": (8, "key and value heads"),
        "ffn": (1408, "inner width of the feed-forward network"),
        "vocabulary": (32_000, "vocabulary size"),
        "steps": (steps, "measured steps"),
        "warm_up": (1, "steps before the measured ones"),
    }
    add_sizes(made, sizes)
    made.add_argument("--threads", type=size, help="CPU threads per side (default: all cores)")


if __name__ == "__main__":
    main()
