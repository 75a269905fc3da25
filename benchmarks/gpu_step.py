"""python -m benchmarks.gpu_step SETTINGS.json RESULT.json

One rank of `benchmarks.gpu`: full training steps (forward, backward, AdamW) with the product's engine, on random tokens
in samples of one document. Rank 0 writes the measurements; running out of memory is a valid result.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from models.attention import Documents
from models.decoder import build
from train.config.compose import compose
from train.distributed.heartbeat import leave
from train.distributed.world import finish
from train.engine import Engine
from train.engine.communication import start
from train.settings import TrainSettings

VOCABULARY = 50_257
"""GPT-2's; the model's settings round it up as in training."""
WORDS = ("output=none", "arm=benchmark", "data.tokens=none", "data.order=none", "tracker=none", "precision=bf16")


def train_settings(settings: Mapping[str, Any]) -> TrainSettings:
    """Return the run's settings: a size from configs/model and the overrides of --set."""
    words = [f"model={settings['size']}", f"micro_batch_size={settings['micro_batch_size']}", *settings["set"]]
    return compose("train", TrainSettings, [*WORDS, *words])


def measure_steps(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return tokens/s per device, seconds per step, peak bytes and operations per token. Call on every rank."""
    run = train_settings(settings)
    world = start(settings["threads"])
    config = run.model.decoder_config(VOCABULARY, settings["seq_len"], VOCABULARY - 1)
    facts: dict[str, Any] = {
        "size": settings["size"],
        "seq_len": settings["seq_len"],
        "micro_batch_size": settings["micro_batch_size"],
        "devices": world.size,
        "parameters": config.parameter_count(),
        "operations_per_token": config.operations_per_token(settings["seq_len"]),
        "operations_per_token_causal": config.operations_per_token(settings["seq_len"], causal=True),
    }
    try:
        facts |= _steps(run, config, settings, world)
        finish(world)
    except torch.OutOfMemoryError as error:  # no finish(): other ranks may be inside a collective
        facts["not_run"] = f"out of memory: {str(error).splitlines()[0]}"
    return facts


def _steps(run: TrainSettings, config: Any, settings: Mapping[str, Any], world: Any) -> dict[str, Any]:
    cuda = world.device.type == "cuda"
    rows = settings["micro_batch_size"]
    engine = Engine(build(config, run.seed, run.execution), run, rows * world.size, world)
    generator = torch.Generator().manual_seed(settings["seed"] + world.rank)
    ids_BS = torch.randint(VOCABULARY - 1, (rows, settings["seq_len"] + 1), generator=generator)
    documents = Documents.of(ids_BS[:, :-1], config.end_of_text)
    tokens = ids_BS[:, 1:].numel() * world.size
    started = 0.0
    for number in range(settings["warm_up"] + settings["steps"]):
        if number == settings["warm_up"]:
            if cuda:
                torch.cuda.reset_peak_memory_stats()
                torch.cuda.synchronize()
            world.barrier()
            started = time.perf_counter()
        losses = engine(ids_BS.to(world.device, non_blocking=True), documents)
        engine.backward(losses.total / tokens)
        engine.step()
    if cuda:
        torch.cuda.synchronize()
    world.barrier()
    step_s = (time.perf_counter() - started) / settings["steps"]
    loss = float(losses.total) / ids_BS[:, 1:].numel()
    if not 0 < loss < 20:
        raise ValueError(f"the loss after {settings['steps']} steps is {loss}: it did not train")
    return {
        "step_s": step_s,
        "tokens_per_s": tokens / step_s / world.size,
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "loss": loss,
    }


def main(arguments: list[str]) -> None:
    """Run one rank."""
    settings, result = (Path(name) for name in arguments)
    facts = measure_steps(json.loads(settings.read_text("utf-8")))
    if os.environ.get("RANK", "0") == "0":
        result.write_text(json.dumps(facts), "utf-8")
    leave(0)


if __name__ == "__main__":
    main(sys.argv[1:])
