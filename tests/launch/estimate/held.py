"""What ranks really hold: every tensor's memory, after a step and before its update.

python -m tests.launch.estimate.held [RANKS]          both precisions, ZeRO 0 to 3; prints predicted and held bytes
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch

from launch.estimate.memory import held
from models.config import DecoderConfig
from models.decoder import build
from train.config.compose import compose
from train.distributed.world import World
from train.engine import Engine
from train.engine.communication import start
from train.settings import TrainSettings

CONFIG = DecoderConfig(vocab_size=512, layers=4, width=128, heads=4, kv_heads=2, ffn=344, max_seq_len=16)
"""Every parameter is below the 100,000 elements up to which stage 3 keeps it gathered."""
WORDS = ["output=o", "arm=a", "data.tokens=t", "data.order=o", "zero.bucket_mb=1", "micro_batch_size=1"]
CASES = list(product(("bf16", "fp32"), (0, 1, 2, 3)))
FEW = [("bf16", 0), ("bf16", 1), ("bf16", 2), ("bf16", 3), ("fp32", 1), ("fp32", 3)]
"""For the test suite."""


def live() -> dict[int, int]:
    """Return the bytes of all memory of floating-point tensors, by address."""
    gc.collect()
    found: dict[int, int] = {}
    for one in gc.get_objects():
        if type(one) in (torch.Tensor, torch.nn.Parameter):
            for tensor in (one, one.grad if one.is_leaf else None):
                if tensor is not None and tensor.is_floating_point():
                    storage = tensor.untyped_storage()
                    found[storage.data_ptr()] = storage.nbytes()
    return found


def one_case(world: World, precision: str, stage: int) -> dict[str, Any]:
    """Return what was predicted, and what is held at the end of the backward pass and after the update."""
    settings = compose("train", TrainSettings, [*WORDS, f"precision={precision}", f"zero.stage={stage}"])
    before = live()
    engine = Engine(build(CONFIG, 0), settings, 2 * world.size, world)
    ids = torch.randint(0, 99, (1, 9), generator=torch.Generator().manual_seed(world.rank))
    now: dict[str, int] = {}
    for _ in range(2):
        for _ in range(engine.micro_batches):
            engine.backward(engine(ids).total / 100)
        now["backward"] = sum(size for place, size in live().items() if place not in before)
        engine.step()
        now["update"] = sum(size for place, size in live().items() if place not in before)
    engine.destroy()
    return {"predicted": asdict(held(settings, CONFIG, world.size, 2)), **now}


def rank(folder: str, cases: list[list[Any]]) -> None:
    """Run the cases as one rank, and write what was found."""
    world = start(threads=1)
    found = {f"{precision} {stage}": one_case(world, precision, stage) for precision, stage in cases}
    (Path(folder) / f"rank{world.rank}.json").write_text(json.dumps(found))
    world.barrier()


def errors(case: Mapping[str, Any], stage: str) -> dict[str, float]:
    """Return the relative error of the prediction at either moment."""
    made = case["predicted"]
    states = made["weights"] + made["optimizer"] + made["buffers"]
    kept = (
        made["gradients"]
        if stage.endswith("3")
        else 4 * CONFIG.parameter_count()
        if stage in ("bf16 0", "bf16 1")
        else 0
    )
    expected = {"backward": states + made["gradients"], "update": states + kept}
    return {moment: size / case[moment] - 1 for moment, size in expected.items()}


def main(ranks: int) -> None:
    """Fork the ranks, and print one line per case and rank."""
    from tests.torture.forks import served

    with served() as server, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        done = server.start(
            f"{__name__ if __name__ != '__main__' else __spec__.name}:rank",
            {"folder": name, "cases": CASES},
            ranks,
            folder / "log",
        )
        codes = done.wait(1500)
        if any(codes):
            sys.exit(f"{codes}: {done.told()}")
        for number in range(ranks):
            for case, found in json.loads((folder / f"rank{number}.json").read_text()).items():
                both = {moment: f"{error:+.3%}" for moment, error in errors(found, case).items()}
                print(f"rank {number} of {ranks}, {case}: {both}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 4)
