"""Code run by the ranks in these tests; `tests.torture.forks` starts them."""

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
from train.distributed.world import World
from train.engine import Engine
from train.engine.communication import start
from train.evaluation.harness.benchmarks import evaluate_benchmarks
from train.evaluation.harness.model import harness_model, load_tokenizer
from train.evaluation.harness.scorer import Scorer
from train.settings import TrainSettings

STAGES = (0, 3)
BATCH = 4
TASKS = ("choice", "broken_field", "rolling", "writing")


def all_requests() -> dict[str, list[Any]]:
    """Return requests of the harness's three kinds, in numbers that two ranks cannot share evenly."""
    rng = random.Random(6)
    texts = [(sentence(rng, words),) for words in (1, 20, 60, 150, 7)]
    prompts = [(sentence(rng, words), {"until": ["e"], "max_gen_toks": 9}) for words in (1, 3, 9, 60, 5)]
    return {"loglikelihood": random_pairs(), "loglikelihood_rolling": texts, "generate_until": prompts}


def answer(assets: str, output: str) -> int:
    """Run as a rank: answer all requests at each ZeRO stage, and run a task in which one rank hangs."""
    world = start(threads=1)
    found: dict[str, Any] = {str(stage): _answers(world, Path(assets), stage) for stage in STAGES}
    found["late"] = _late(world, Path(assets))
    found["tasks"] = _tasks(world, Path(assets))
    Path(output, f"{world.size}_{world.rank}.json").write_text(json.dumps(found))
    world.barrier()
    return 0


def evaluate(words: list[str]) -> int:
    """Run as a rank of `pdpc evaluate`."""
    from launch.rank import main

    return main(["evaluate", *words])


def _answers(world: World, assets: Path, stage: int) -> dict[str, Any]:
    words = ["output=o", "arm=a", "data.tokens=t", "data.order=o", "precision=fp32", f"zero.stage={stage}"]
    settings = compose("train", TrainSettings, [*words, "micro_batch_size=2"])
    engine = Engine(make_decoder(), settings, 8, world)
    with engine.whole_weights(), torch.inference_mode():
        scorer = Scorer(engine.decoder.eval(), Collectives(world), MAX_LENGTH, BATCH)
        model = harness_model(scorer, load_tokenizer(assets / "tokenizer"))
        found = {kind: getattr(model, kind)(requests(*arguments)) for kind, arguments in all_requests().items()}
    engine.destroy()
    return found


def _tasks(world: World, assets: Path) -> dict[str, Any]:
    """Run tasks, tasks with one rank out of memory, and collectives in which the ranks disagree."""
    values = evaluate_benchmarks(make_decoder(), assets / "tokenizer", settings_of(assets, *TASKS), world).values
    failing = make_decoder()
    if world.rank == world.size - 1:
        failing.embedding.register_forward_hook(_no_memory)
    failed = evaluate_benchmarks(failing, assets / "tokenizer", settings_of(assets, "writing", "choice"), world).values
    failures = []
    for step, error in ((f"step {world.rank}", None), ("step", "no memory" if world.rank == 1 else None)):
        try:
            Collectives(world).gather(step, error=error)
        except RankFailed as failure:
            failures.append(str(failure))
    lengths = (0, 5, FIRST_BYTES, 3 * FIRST_BYTES)
    gathered = [Collectives(world).gather("gathered", str(world.rank) * length) for length in lengths]
    gathered.append(Collectives(world).gather("uneven", "long" * FIRST_BYTES * world.rank))
    return {"values": values, "failed": failed, "failures": failures, "gathered": gathered}


def _no_memory(*_: object) -> None:
    raise RuntimeError("no memory on this rank")


def _late(world: World, assets: Path) -> dict[str, float | str]:
    """Run a task in which the last rank hangs after a collective, then a task that all can run."""
    hangs = settings_of(assets, "hangs", task_timeout_s=0.5)
    os.environ["HANGS"] = "1" if world.rank == world.size - 1 else ""
    decoder = make_decoder()
    late = evaluate_benchmarks(decoder, assets / "tokenizer", hangs, world)
    assert late.failed == ["hangs"], late
    return late.values | evaluate_benchmarks(decoder, assets / "tokenizer", settings_of(assets, "choice"), world).values
