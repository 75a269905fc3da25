"""What ranks do in the tests of this folder; `tests.torture.forks` starts them."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import torch

from tests.train.evaluation.harness.material import (
    MAX_LENGTH,
    make_decoder,
    random_pairs,
    requests,
    sentence,
    settings_of,
)
from train.config.compose import compose
from train.distributed.collectives import FIRST_BYTES, Collectives, RankFailed
from train.distributed.world import World, start
from train.engine import Engine
from train.evaluation.harness.benchmarks import evaluate_benchmarks
from train.evaluation.harness.model import harness_model, load_tokenizer
from train.evaluation.harness.scorer import Scorer
from train.settings import TrainSettings

STAGES = (0, 3)
BATCH = 4
TASKS = ("choice", "broken_field", "rolling", "writing")


def asked() -> dict[str, list[Any]]:
    """Requests of the harness's three kinds, in numbers that two ranks cannot share evenly."""
    rng = random.Random(6)
    texts = [(sentence(rng, words),) for words in (1, 20, 60, 150, 7)]
    prompts = [(sentence(rng, words), {"until": ["e"], "max_gen_toks": 9}) for words in (1, 3, 9, 60, 5)]
    return {"loglikelihood": random_pairs(), "loglikelihood_rolling": texts, "generate_until": prompts}


def answer(room: str, output: str) -> int:
    """Be a rank: answer all requests at each ZeRO stage, and run a task in which one rank hangs."""
    world = start(threads=1)
    found: dict[str, Any] = {str(stage): _answers(world, Path(room), stage) for stage in STAGES}
    found["late"] = _late(world, Path(room))
    found["tasks"] = _tasks(world, Path(room))
    Path(output, f"{world.size}_{world.rank}.json").write_text(json.dumps(found))
    world.barrier()
    return 0


def evaluate(words: list[str]) -> int:
    """Be a rank of `pdpc evaluate`."""
    from launch.rank import main

    return main(["evaluate", *words])


def _answers(world: World, room: Path, stage: int) -> dict[str, Any]:
    words = ["output=o", "arm=a", "data.tokens=t", "data.order=o", "precision=fp32", f"zero.stage={stage}"]
    settings = compose("train", TrainSettings, [*words, "micro_batch_size=2"])
    engine = Engine(make_decoder(), settings, 8, world)
    with engine.whole_weights(), torch.inference_mode():
        scorer = Scorer(engine.decoder.eval(), Collectives(world), MAX_LENGTH, BATCH)
        model = harness_model(scorer, load_tokenizer(room / "tokenizer"))
        found = {kind: getattr(model, kind)(requests(*arguments)) for kind, arguments in asked().items()}
    engine.destroy()
    return found


def _tasks(world: World, room: Path) -> dict[str, Any]:
    """Run tasks, tasks on ranks of which one has no memory, and meetings at which the ranks are not of one mind."""
    values = evaluate_benchmarks(make_decoder(), room / "tokenizer", settings_of(room, *TASKS), world).values
    failing = make_decoder()
    if world.rank == world.size - 1:
        failing.embedding.register_forward_hook(_no_memory)
    failed = evaluate_benchmarks(failing, room / "tokenizer", settings_of(room, "writing", "choice"), world).values
    failures = []
    for step, error in ((f"step {world.rank}", None), ("step", "no memory" if world.rank == 1 else None)):
        try:
            Collectives(world).gather(step, error=error)
        except RankFailed as failure:
            failures.append(str(failure))
    told = [
        Collectives(world).gather("told", str(world.rank) * length) for length in (0, 5, FIRST_BYTES, 3 * FIRST_BYTES)
    ]
    told.append(Collectives(world).gather("uneven", "long" * FIRST_BYTES * world.rank))
    return {"values": values, "failed": failed, "failures": failures, "told": told}


def _no_memory(*_: object) -> None:
    raise RuntimeError("no memory on this rank")


def _late(world: World, room: Path) -> dict[str, float | str]:
    """The last rank hangs in a task, after a meeting; then a task that all can run."""
    hangs = settings_of(room, "hangs", task_timeout_s=0.5)
    os.environ["HANGS"] = "1" if world.rank == world.size - 1 else ""
    decoder = make_decoder()
    late = evaluate_benchmarks(decoder, room / "tokenizer", hangs, world)
    assert late.failed == ["hangs"], late
    return late.values | evaluate_benchmarks(decoder, room / "tokenizer", settings_of(room, "choice"), world).values
