"""An order in accelerate's loop and in Trainer, on one and two ranks: every step reads the order's own batch.

Lightning is in the environment of the benchmarks' peers: `make check-loops` runs these tests with it
(PDPC_PEERS=.venv-peers/bin/python); test_sampler.py tests what it asks of a DataLoader.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.processes import PLACE
from tests.ports import free_port

SCRIPT = Path(__file__).with_name("other_loops.py")
ROOT = Path(__file__).parents[3]
PEERS = os.environ.get("PDPC_PEERS")


def run(loop: str, ranks: int, scenarios: list[dict[str, Any]], python: str = sys.executable) -> list[list[Any]]:
    """Run scenarios on some ranks; return for each what every rank read step by step, or its error."""
    plain = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "HF_HUB_OFFLINE": "1"}
    port = str(free_port())
    command = [python, str(SCRIPT), loop, json.dumps(scenarios)]
    started = []
    for rank in range(ranks):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} | {key: str(value) for key, value in place.items()}
        own = {key: value for key, value in os.environ.items() if key not in PLACE}
        environment = {**own, **plain, **(meeting if ranks > 1 else {})}
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True))
    try:
        said = [process.communicate(timeout=500) for process in started]
    finally:
        for process in started:
            process.kill()
    for process, (_, errors) in zip(started, said, strict=True):
        assert process.returncode == 0, errors[-3000:]
    found = [json.loads(output.strip().splitlines()[-1]) for output, _ in said]
    return [list(parts) for parts in zip(*found, strict=True)]


def order_of(samples: int) -> list[int]:
    return np.random.default_rng(0).permutation(samples).tolist()


def check(ranks: list[list[list[int]]], samples: int, batch_size: int, first: int = 0, left_out: bool = False) -> None:
    """Assert that step by step the ranks together read the order's batches; a filled last step may repeat samples."""
    order = order_of(samples)
    end = samples - samples % batch_size if left_out else samples
    batches = [order[i : min(i + batch_size, end)] for i in range(first, end, batch_size)]
    assert len({len(steps) for steps in ranks}) == 1
    steps = [sorted(number for part in parts for number in part) for parts in zip(*ranks, strict=True)]
    assert len(steps) == len(batches)
    for number, (step, batch) in enumerate(zip(steps, batches, strict=True)):
        last_is_filled = len(ranks) > 1 and len(batch) < batch_size and number == len(batches) - 1
        if last_is_filled:
            assert set(batch) <= set(step)
            assert set(step) - set(batch) <= set(batches[0])
            assert len(step) < len(batch) + batch_size
        else:
            assert step == sorted(batch), f"step {number}"


ONE_PASS = "the order's 40 samples have been read, and an order is one pass: train for one epoch"


def scenario(samples: int, batch_size: int, accumulation: int = 1, **more: Any) -> dict[str, Any]:
    return {"samples": samples, "batch_size": batch_size, "accumulation": accumulation, **more}


@pytest.mark.parametrize("ranks", [1, 2])
def test_accelerate_reads_the_orders_batches(ranks: int) -> None:
    whole, left_out, resumed, cut, again = run(
        "accelerate",
        ranks,
        [
            scenario(625, 16, 2),
            scenario(107, 8, drop_last=True, workers=1),
            scenario(100, 8, 4 // ranks, cursor=40),
            scenario(625, 16, cut=True),
            scenario(40, 8, epochs=2),
        ],
    )
    check(whole, 625, 16)
    check(left_out, 107, 8, left_out=True)
    check(resumed, 100, 8, first=40)
    if ranks == 1:
        check(cut, 625, 16)
    else:  # it would be divided twice
        assert all(f"part of rank {rank} of 2" in text for rank, text in enumerate(cut))
        assert all("use CurriculumSampler.for_accelerate for accelerator.prepare" in text for text in cut)
    assert all(ONE_PASS in text for text in again)


@pytest.mark.parametrize("ranks", [1, 2])
def test_trainer_reads_the_orders_batches_and_resumes(tmp_path: Path, ranks: int) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    stopped = scenario(100, 8, 2, folder=str(tmp_path / "one"))
    first, rest, left_out, again = run(
        "trainer",
        ranks,
        [
            stopped | {"stop": 5},
            stopped,
            scenario(107, 8, drop_last=True, workers=1, folder=str(tmp_path / "two")),
            scenario(40, 8, epochs=2, folder=str(tmp_path / "three")),
        ],
    )
    assert [len(steps) for steps in first] == [5] * ranks
    check([one + other for one, other in zip(first, rest, strict=True)], 100, 8)
    check(left_out, 107, 8, left_out=True)
    assert all(ONE_PASS in text for text in again)


@pytest.mark.skipif(not PEERS, reason="needs the peers' environment: make check-loops")
def test_lightning_reads_every_batch_once() -> None:
    scenarios = [scenario(44, 8), scenario(44, 8, workers=2), scenario(40, 8, epochs=-1, steps=2000)]
    plain, workers, again = run("lightning", 1, scenarios, python=PEERS or "")
    check(plain, 44, 8)
    check(workers, 44, 8)
    assert ONE_PASS in again[0]
