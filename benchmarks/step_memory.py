"""python -m benchmarks.step_memory

Peak memory of the training steps of benchmarks.train_step at equal shapes: ours compared with Hugging Face's Trainer,
on samples of one document and on packed ones. Measured is the peak resident memory during the steps after the warm-up,
minus the memory before the model was built. On all sides the C library returns every freed block of 128 KiB or more at
once (MALLOC_MMAP_THRESHOLD_): its caches vary by hundreds of MiB between runs and are not memory that a step needs.

Target: at most 0.8 times the Trainer's.
"""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import train_step
from benchmarks.options import chosen, parser, say, work_folder
from benchmarks.processes import Facts, measure
from benchmarks.report import MEBIBYTE, Result, finish
from benchmarks.rounds import Check, column, interleave, ratios, spread
from benchmarks.step_models import decoder_config

NAME = "step_memory"
PAIRS = {"single documents": ("pdpc", "trainer"), "packed": ("pdpc_packed", "trainer_packed")}
MOST_TIMES = 0.8
RETURN_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "131072"}


def main(arguments: list[str] | None = None) -> None:
    """Measure and report."""
    options = _options(arguments)
    settings = {**chosen(options), "threads": options.threads or len(os.sched_getaffinity(0))}
    sides = [side for pair in PAIRS.values() for side in pair]
    with work_folder(options.work) as work:
        given = {**settings, "scratch": str(work / "trainer")}
        measured = interleave(sides, options.rounds, partial(_one_side, given, work), say)
    compared = {
        f"memory of {ours} / {theirs}": ratios(
            column(measured, ours, "step_bytes"), column(measured, theirs, "step_bytes")
        )
        for ours, theirs in PAIRS.values()
    }
    checks = [
        Check(f"memory, {kind}", spread(values).median, MOST_TIMES, "at most", "x")
        for kind, values in zip(PAIRS, compared.values(), strict=True)
    ]
    notes = [
        f"{side}: {spread(column(measured, side, 'step_bytes')).median / MEBIBYTE:,.0f} MiB per step (median)"
        for side in sides
    ]
    settings["parameters"] = decoder_config(settings).parameter_count()
    peers = ("torch", "transformers", "accelerate", "deepspeed")
    finish(Result(NAME, settings, peers, measured, compared, checks, notes), keep=options.keep)


def _one_side(settings: dict[str, Any], work: Path, side: str) -> Facts:
    environment = train_step.environment_of(settings) | RETURN_FREED_MEMORY
    return measure(train_step.NAME, side, settings, work, environment)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    train_step.add_model_sizes(made, steps=1)
    return made.parse_args(arguments)


if __name__ == "__main__":
    main()
