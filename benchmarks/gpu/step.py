"""Full training steps (forward, backward, AdamW) with the product's engine, in tokens/s: random tokens, one document
per sample, weights drawn on the device.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.gpu.check import Check, Row
from models.attention import Documents
from models.config import DecoderConfig
from models.decoder import Decoder, empty
from models.execution import ExecutionSettings
from train.config.compose import compose
from train.distributed.world import World, finish
from train.engine import Engine
from train.engine.communication import start
from train.settings import TrainSettings

VOCABULARY = 50_257
"""GPT-2's; the model's settings round it up as in training."""
WORDS = ("output=none", "arm=benchmark", "data.tokens=none", "data.order=none", "tracker=none", "precision=bf16")
LARGEST_LOSS = 20.0


def checks(settings: Mapping[str, Any]) -> dict[str, Check]:
    """Return the measurement of one size."""
    return {f"steps of {settings['model']}": lambda: measure_steps(settings)}


def train_settings(settings: Mapping[str, Any], size: str) -> TrainSettings:
    """Return the run's settings: a size from configs/model and the overrides of --set."""
    words = [f"model={size}", f"micro_batch_size={settings['micro_batch_size']}", *settings["set"]]
    return compose("train", TrainSettings, [*WORDS, *words])


def model_of(settings: Mapping[str, Any], size: str) -> DecoderConfig:
    """Return a size's decoder, with GPT-2's vocabulary and end-of-text token."""
    model = train_settings(settings, size).model
    return model.decoder_config(VOCABULARY, settings["seq_len"], VOCABULARY - 1)


def facts_of(settings: Mapping[str, Any], config: DecoderConfig, devices: int) -> Row:
    """Return what is measured: shapes, parameters and operations per token."""
    return {
        "size": settings["model"],
        "seq_len": settings["seq_len"],
        "micro_batch_size": settings["micro_batch_size"],
        "devices": devices,
        "parameters": config.parameter_count(),
        "operations_per_token": config.operations_per_token(settings["seq_len"]),
        "operations_per_token_causal": config.operations_per_token(settings["seq_len"], causal=True),
    }


def on_device(config: DecoderConfig, execution: ExecutionSettings, device: torch.device) -> Decoder:
    """Return a decoder with random weights, drawn on the device: on the CPU that takes longer than the steps."""
    decoder = empty(config, execution, device)
    with torch.no_grad():
        for weight in decoder.parameters():
            if weight.dim() == 1:
                weight.fill_(1.0)
            else:
                weight.normal_(0.0, 0.02)
    return decoder


def measure_steps(settings: Mapping[str, Any]) -> Row:
    """Return tokens/s per device, seconds per step, peak bytes and operations per token. Call on every rank."""
    run = train_settings(settings, settings["model"])
    world = start(settings["threads"])
    config = model_of(settings, settings["model"])
    facts = facts_of(settings, config, world.size)
    torch.manual_seed(settings["seed"])
    try:
        facts |= _steps(run, config, settings, world)
        finish(world)
    except torch.OutOfMemoryError as error:  # no finish(): other ranks may be inside a collective
        return facts | {"out_of_memory": str(error).splitlines()[0]}
    return facts


def _steps(run: TrainSettings, config: DecoderConfig, settings: Mapping[str, Any], world: World) -> Row:
    rows = settings["micro_batch_size"]
    engine = Engine(on_device(config, run.execution, world.device), run, rows * world.size, world)
    generator = torch.Generator().manual_seed(settings["seed"] + world.rank)
    ids_BS = torch.randint(VOCABULARY - 1, (rows, settings["seq_len"] + 1), generator=generator)
    documents = Documents.of(ids_BS[:, :-1], config.end_of_text)
    tokens = ids_BS[:, 1:].numel() * world.size

    def step() -> Any:
        losses = engine(ids_BS.to(world.device, non_blocking=True), documents)
        engine.backward(losses.total / tokens)
        engine.step()
        return losses.total * world.size / tokens

    return timed(step, settings, world.device, tokens // world.size, world.barrier)


def timed(step: Any, settings: Mapping[str, Any], device: torch.device, tokens: int, barrier: Any = None) -> Row:
    """Call `step`, which returns the mean loss, as often as the settings say; return its time for `tokens` of a device.

    Raises ValueError if the loss does not show training: the tokens are the same in every step.
    """
    cuda = device.type == "cuda"
    barrier = barrier or (lambda: None)
    first = float(step())
    for _ in range(settings["warm_up"] - 1):
        step()
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    barrier()
    started = time.perf_counter()
    for _ in range(settings["steps"]):
        loss = step()
    if cuda:
        torch.cuda.synchronize()
    barrier()
    step_s = (time.perf_counter() - started) / settings["steps"]
    last = float(loss)
    if not 0 < last < min(LARGEST_LOSS, first):
        raise ValueError(f"the loss was {first:.3f} and is {last:.3f} after the steps: the model did not train")
    return {
        "step_s": step_s,
        "tokens_per_s": tokens / step_s,
        "peak_bytes": torch.cuda.max_memory_allocated() if cuda else None,
        "first_loss": first,
        "loss": last,
    }
