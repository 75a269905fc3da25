"""python -m benchmarks.preference_memory

Peak memory of a LOGO step on one long prompt with a chosen and two rejected answers, compared with a next-token step on
one sequence of the same length (prompt and chosen answer), both in our engine. Measured is the peak resident memory
during the steps after the first, minus the memory before the model was built.

Target: at most 1.3 times the memory of the sequence.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.options import add_sizes, chosen, parser, say, work_folder
from benchmarks.processes import Facts, Settings, Side, forget_peak, measure, peak_bytes, resident_bytes
from benchmarks.report import MEBIBYTE, Result, finish
from benchmarks.rounds import Check, column, interleave, ratios, spread

NAME = "preference_memory"
MOST_TIMES = 1.3
STEPS = 1
RETURN_FREED_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "131072", "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu"}


def _step(settings: Settings, *, pairs: bool) -> Facts:
    """Make steps; return time and memory of those after the first."""
    import time

    import numpy as np
    import torch

    from models.attention import Documents
    from models.config import DecoderConfig
    from models.decoder import build
    from models.losses.pair_batch import Answered, log_probabilities, pair_batch
    from models.losses.pair_loss import PairLoss
    from train.engine import Engine
    from train.engine.communication import start
    from train.settings import DataSettings, ModelSettings, TrainSettings, ZeroSettings

    world = start(1)
    before = resident_bytes()
    shape = {key: settings[key] for key in ("layers", "width", "heads", "kv_heads", "ffn")}
    train = TrainSettings(
        output="none",
        arm="benchmark",
        data=DataSettings("none", "none"),
        model=ModelSettings(**shape),
        zero=ZeroSettings(stage=0),
        precision="fp32",
        micro_batch_size=1,
    )
    config = DecoderConfig(vocab_size=settings["vocabulary"], max_seq_len=settings["length"], **shape)
    engine = Engine(build(config, 0), train, 1, world)
    rng = np.random.default_rng(settings["seed"])
    answer = settings["answer"]
    ids = rng.integers(0, settings["vocabulary"], settings["length"] + 1)
    answers = rng.integers(0, settings["vocabulary"], (3, answer))
    row = Answered(ids[:-answer], list(answers))
    loss = PairLoss("logo", 10.0, 3.0, 0.1)
    began = 0.0
    for number in range(1 + STEPS):
        if number == 1:
            forget_peak()
            began = time.perf_counter()
        if pairs:
            batch = pair_batch([row])
            engine.backward(loss(log_probabilities(engine, batch, world.device), batch).loss_P.sum())
        else:
            ids_BS = torch.from_numpy(ids)[None]
            engine.backward(engine(ids_BS, Documents((settings["length"],))).total / settings["length"])
        engine.step()
    seconds = time.perf_counter() - began
    return {"seconds": seconds, "step_bytes": peak_bytes() - before, "peak_bytes": peak_bytes()}


SIDES: dict[str, Side] = {"logo": partial(_step, pairs=True), "sequence": partial(_step, pairs=False)}


def main(arguments: list[str] | None = None) -> None:
    """Measure and report."""
    options = _options(arguments)
    settings = chosen(options)
    with work_folder(options.work) as work:
        measured = interleave(list(SIDES), options.rounds, partial(_one_side, settings, work), say)
    values = ratios(column(measured, "logo", "step_bytes"), column(measured, "sequence", "step_bytes"))
    checks = [Check("memory of a LOGO step", spread(values).median, MOST_TIMES, "at most", "x")]
    notes = [
        f"{side}: {spread(column(measured, side, 'step_bytes')).median / MEBIBYTE:,.0f} MiB per step (median)"
        for side in SIDES
    ]
    compared = {"memory of logo / one sequence": values}
    finish(Result(NAME, settings, ("torch", "deepspeed"), measured, compared, checks, notes), keep=options.keep)


def _one_side(settings: dict[str, Any], work: Path, side: str) -> Facts:
    return measure(NAME, side, settings, work, RETURN_FREED_MEMORY)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    made = parser(__doc__)
    sizes = {
        "length": (8192, "tokens of the prompt with one answer"),
        "answer": (256, "tokens of an answer"),
        "layers": (2, "blocks"),
        "width": (64, "width"),
        "heads": (4, "query heads"),
        "kv_heads": (4, "key and value heads"),
        "ffn": (172, "inner width of the feed-forward network"),
        "vocabulary": (512, "vocabulary size"),
    }
    add_sizes(made, sizes)
    return made.parse_args(arguments)


if __name__ == "__main__":
    main()
