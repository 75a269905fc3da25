"""An order in accelerate's loop and in Trainer, on one and two ranks: every step reads the order's own batch.

Lightning is in the environment of the benchmarks' peers: `make check-loops` runs these tests with it
(PDPC_PEERS=.venv-peers/bin/python); test_sampler.py tests what it asks of a DataLoader.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.processes import PLACE
from tests.torture.forks import Forks

SCRIPT = Path(__file__).with_name("other_loops.py")
ROOT = Path(__file__).parents[3]
PEERS = os.environ.get("PDPC_PEERS")


def run(forks: Forks, folder: Path, loop: str, ranks: int, scenarios: list[dict[str, Any]]) -> list[list[Any]]:
    """Run scenarios on some ranks; return for each what every rank read step by step, or its error."""
    forks.load("accelerate", "transformers.trainer")
    arguments = {"loop": loop, "scenarios": scenarios, "output": str(folder)}
    started = forks.start("tests.curriculum.order.other_loops:rank", arguments, ranks, folder / "log")
    codes = started.wait(500)
    started.kill()
    assert codes == [0] * ranks, started.told()[-3000:]
    found = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(ranks)]
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
def test_accelerate_reads_the_orders_batches(forks: Forks, tmp_path: Path, ranks: int) -> None:
    whole, left_out, resumed, cut, again = run(
        forks,
        tmp_path,
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
def test_trainer_reads_the_orders_batches_and_resumes(forks: Forks, tmp_path: Path, ranks: int) -> None:
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
    stopped = scenario(100, 8, 2, folder=str(tmp_path / "one"))
    first, rest, left_out, again = run(
        forks,
        tmp_path,
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
    own = {key: value for key, value in os.environ.items() if key not in PLACE}
    environment = {**own, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [PEERS or "", str(SCRIPT), "lightning", json.dumps(scenarios)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    plain, workers, again = json.loads(done.stdout.strip().splitlines()[-1])
    check([plain], 44, 8)
    check([workers], 44, 8)
    assert ONE_PASS in again
