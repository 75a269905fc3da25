"""Memory a rank uses, compared with the estimate of train/memory/footprint.py.

    python -m tests.train.memory.peak_memory [--small] [CASE ...]

Each case is a process with world size 1, forked from one that has imported everything: two steps of an engine, and the
growth of its peak resident memory since the fork.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

CASES: dict[str, dict[str, Any]] = {
    "fp32, stage 0": {"precision": "fp32", "zero": {"stage": 0}},
    "fp32, stage 1": {"precision": "fp32", "zero": {"stage": 1}},
    "bf16, stage 1": {"precision": "bf16", "zero": {"stage": 1}},
    "bf16, stage 0": {"precision": "bf16", "zero": {"stage": 0}},
    "bf16, stage 2": {"precision": "bf16", "zero": {"stage": 2}},
    "bf16, stage 3": {"precision": "bf16", "zero": {"stage": 3}},
    "fp32, stage 1, long": {"precision": "fp32", "zero": {"stage": 1}, "micro": 8},
    "fp32, stage 0, full": {"precision": "fp32", "zero": {"stage": 0}, "micro": 8, "checkpointing": "full"},
    "fp32, stage 0, selective": {"precision": "fp32", "zero": {"stage": 0}, "micro": 8, "checkpointing": "selective"},
    "fp32, stage 0, wide vocabulary": {"precision": "fp32", "zero": {"stage": 0}, "micro": 4, "vocab": 32_000},
    "bf16, stage 1, accumulated": {"precision": "bf16", "zero": {"stage": 1}, "micro": 2, "batch": 4},
    "fp32, stage 0, larger": {"precision": "fp32", "zero": {"stage": 0}, "layers": 8, "width": 768},
}


def peak_bytes() -> int:
    """Return the peak resident memory of this process."""
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024


def measured(case: dict[str, Any]) -> tuple[int, int]:
    """Return the estimate and the peak of a single rank; runs in this process, which cannot be reused."""
    import numpy as np
    import torch

    from models.decoder import build
    from models.execution import ExecutionSettings
    from train.engine import Engine
    from train.engine.communication import start
    from train.memory.footprint import footprint
    from train.settings import DataSettings, ModelSettings, TrainSettings, ZeroSettings

    width, micro, vocabulary = case.get("width", 512), case.get("micro", 1), case.get("vocab", 2048)
    length = case.get("length", 512)
    model = ModelSettings(case.get("layers", 6), width, 8, 8, 4 * width, attention="sdpa")
    settings = TrainSettings(
        "unused", "unused", DataSettings("t", "o"), model, zero=ZeroSettings(**case["zero"], bucket_mb=1),
        precision=case["precision"], micro_batch_size=micro,
        execution=ExecutionSettings(checkpointing=case.get("checkpointing", "none")),
    )  # fmt: skip
    decoder, batch = model.decoder_config(vocabulary, length, None), case.get("batch", micro)
    least = footprint(settings, decoder, batch, 1, cuda=False).training
    world = start(1)
    before = peak_bytes()
    engine = Engine(build(decoder, 0, settings.execution), settings, batch, world)
    ids = torch.from_numpy(np.random.default_rng(0).integers(0, vocabulary, (micro, length + 1)))
    for _ in range(2):
        for _ in range(engine.micro_batches):
            engine.backward(engine(ids).total / 512)
            engine.step()
    return least, peak_bytes() - before


def main(names: list[str]) -> None:
    """Print one line per case as JSON: name, estimated and measured bytes."""
    import deepspeed
    import torch

    import train.engine  # noqa: F401

    torch.set_num_threads(1)
    _ = deepspeed.ops.__compatible_ops__
    small = names[:1] == ["--small"]
    for name in names[small:] or CASES:
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                case = CASES[name] | ({"layers": 2, "length": 64, "micro": 2} if small else {})
                print(json.dumps([name, *measured(case)]), flush=True)
                code = 0
            finally:
                os._exit(code)
        if os.waitpid(pid, 0)[1]:
            sys.exit(f"{name} failed")


if __name__ == "__main__":
    main(sys.argv[1:])
