"""One rank of the doctor's step. Not yet run on a GPU.

Every rank takes the same micro-batch, so the gradient of the global batch is that of one micro-batch, and each rank can
compute it by itself in plain torch.
"""

from __future__ import annotations

import os
import sys

if __name__ == "__main__":  # before anything else is imported: from here, and not from the current folder
    from train.config.safe_path import leave_current_folder

    leave_current_folder()

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from curriculum.work.streams import open_streams
from models.config import DecoderConfig
from models.execution import ExecutionSettings
from train.distributed.entry import RankVerb, run_rank
from train.distributed.heartbeat import leave
from train.evaluation.harness.tasks import BenchmarkSettings
from train.settings import TrainSettings

if TYPE_CHECKING:
    from torch import Tensor

    from train.distributed.world import World
    from train.inputs import Inputs

RESULT = "PDPC_DOCTOR_RESULT"
"""As in launch/doctor/step.py."""
VOCABULARY, SEQ_LEN = 4096, 128
"""Of the random samples, where no TOKENS are given."""
BY_DEFINITION = 2048
"""Tokens up to which attention is computed by definition in the comparison; longer samples take torch's own."""


def decoder_of(settings: TrainSettings, inputs: Inputs | None) -> DecoderConfig:
    """Return the decoder of the run, or of random samples without inputs."""
    if inputs is not None:
        return inputs.decoder
    return settings.model.decoder_config(VOCABULARY, SEQ_LEN, end_of_text=None)


def plain_norm(decoder: DecoderConfig, ids_BS: Tensor, seed: int) -> float:
    """Return the gradient norm of the mean loss in plain torch and fp32: no kernels, no DeepSpeed, sample by sample.

    Holds 8 bytes per parameter, and the activations of one block of one sample.
    """
    import torch

    from curriculum.tokens.tokens import IGNORED
    from models.decoder import build

    attention = "reference" if decoder.max_seq_len <= BY_DEFINITION else "sdpa"
    plain = ExecutionSettings(kernels="plain", checkpointing="full")
    model = build(replace(decoder, attention=attention), seed, plain).to(ids_BS.device)
    labels = ids_BS[:, 1:]
    count = int(((labels != IGNORED) & (labels != (decoder.input_only or IGNORED))).sum())
    for row_S in ids_BS:
        (model(row_S[None]).total / count).backward()
    squares = torch.stack(
        [weight.grad.double().square().sum() for weight in model.parameters() if weight.grad is not None]
    )
    return float(squares.sum().sqrt())


def one_step(settings: TrainSettings, inputs: Inputs | None, world: World) -> dict[str, float | str]:
    """Return the gradient norm of one micro-batch through the engine, that of plain torch, and the step's seconds."""
    import torch

    from curriculum.tokens.tokens import IGNORED, Tokens
    from models.attention import Documents, on_device
    from models.decoder import build
    from train.engine import Engine

    decoder, size = decoder_of(settings, inputs), settings.micro_batch_size
    if inputs is not None and isinstance(inputs.tokens, Tokens):
        rows = inputs.tokens.sample(range(min(size, len(inputs.tokens))))
        ids_BS = torch.from_numpy(rows.astype("int64"))
    else:
        random = torch.Generator().manual_seed(settings.seed)
        ids_BS = torch.randint(0, VOCABULARY, (size, decoder.max_seq_len + 1), generator=random)
    documents = Documents.of(ids_BS[:, :-1], decoder.end_of_text)
    on_rank_BS = on_device(ids_BS, world.device)
    reference = plain_norm(decoder, on_rank_BS, settings.seed)
    labels = ids_BS[:, 1:]
    count = int(((labels != IGNORED) & (labels != (decoder.input_only or IGNORED))).sum())
    engine = Engine(build(decoder, settings.seed, settings.execution), settings, size * world.size, world)
    try:
        began = time.perf_counter()
        engine.backward(engine(on_rank_BS, documents).total / (count * world.size))
        norm = float(engine.gradient_norm())
        engine.step()
        world.barrier()
        seconds = time.perf_counter() - began
    finally:
        engine.destroy()
    device = torch.cuda.get_device_name() if world.device.type == "cuda" else "the CPU"
    facts = {"norm": norm, "reference": reference, "seconds": seconds}
    return {**facts, "device": device, "stage": str(settings.zero.stage)}


def main(arguments: list[str]) -> int:
    """Run one rank of the step, given overrides of `train`; return the exit code (train/distributed/exit_codes.py)."""
    return run_rank(RankVerb("train", "run one step and check its gradient", TrainSettings, _step), arguments)


def _step(settings: TrainSettings, _overrides: list[str]) -> None:
    from train.distributed.out_of_memory import needing
    from train.distributed.world import finish
    from train.engine.communication import start
    from train.inputs import open_inputs

    inputs = None
    if Path(settings.data.tokens).is_dir() and Path(settings.data.order).is_dir():
        inputs = open_inputs(replace(settings, benchmarks=BenchmarkSettings(), init=None))
    world = start(settings.threads)
    with needing("the doctor's step"):
        found = one_step(settings, inputs, world)
    if world.first and RESULT in os.environ:
        Path(os.environ[RESULT]).write_text(json.dumps(found), "utf-8")
    finish(world)


if __name__ == "__main__":
    open_streams()
    leave(main(sys.argv[1:]))
