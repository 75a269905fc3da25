"""The negative control: a rank killed inside its write, with plain DeepSpeed's save_checkpoint and load_checkpoint.

An attempt passes if the kill happened; the notes count the failed resumes. They are expected to fail: `latest` is
written before the other ranks have finished writing, and no older checkpoint is tried.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from tests.torture.campaign import Tally, case_seeds
from tests.torture.forks import Forks, served

FULL = 50
RANKS = 2
LIMIT_S = 60.0
"""Time limit for a launch."""
HELD_S = 1.0
"""Longest pause of the killed rank after half of its write."""


def run(count: int, seed: int, work: Path) -> Tally:
    """Interrupt `count` saves of DeepSpeed's; an undisturbed checkpoint must load first."""
    tally, failed = Tally("red", seed=seed), 0
    with served() as forks:
        saved, loaded, output = _save_and_load(forks, work, None)
        if saved != [0] * RANKS or loaded != [0] * RANKS:
            raise RuntimeError(f"plain DeepSpeed without a fault: saved {saved}, loaded {loaded}: {output}")
        for case in case_seeds(seed, count):
            saved, loaded, output = _save_and_load(forks, work, float(np.random.default_rng(case).uniform(0, HELD_S)))
            failed += loaded != [0] * RANKS
            tally.add(case, None if saved[1] == -9 else f"the kill did not happen: {saved}: {output}")
    tally.notes.append(
        f"plain DeepSpeed: {failed} of {tally.attempts} resumes failed, despite an intact older checkpoint"
    )
    return tally


def _save_and_load(forks: Forks, work: Path, held_s: float | None) -> tuple[list[int | None], list[int | None], str]:
    """Save, with rank 1 killed `held_s` seconds into a write, then load in new ranks; return exit codes and output."""
    folder, log, codes, output = work / "deepspeed", work / "log", [], ""
    for saves in (True, False):
        arguments = {"folder": str(folder), "held_s": held_s if saves else None, "saves": saves}
        ranks = forks.start("tests.torture.red:rank", arguments, RANKS, log)
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline and not any(ranks.wait(0)):  # until one fails, or all have ended
            if None not in ranks.wait(0):
                break
            time.sleep(0.002)
        codes.append(ranks.wait(1))  # the others notice, or hang
        ranks.kill()
        ranks.wait(5)
        output += ranks.told()[-600:]
    shutil.rmtree(folder, ignore_errors=True)
    log.unlink(missing_ok=True)
    return codes[0], codes[1], output


def rank(folder: str, held_s: float | None, saves: bool) -> int:
    """Run a rank of a plain DeepSpeed run: save twice, killed in the second write, or load."""
    import deepspeed
    import torch

    from train.distributed.world import finish
    from train.engine.communication import start

    world = start(threads=1)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.GELU(), torch.nn.Linear(64, 32))
    config = {"train_micro_batch_size_per_gpu": 2, "zero_optimization": {"stage": 1}, "steps_per_print": 2**31}
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-3)
    engine, *_ = deepspeed.initialize(model=model, optimizer=adamw, config=config, dist_init_required=False)
    if not saves:
        engine.load_checkpoint(folder)
        world.barrier()
        finish(world)
        return 0
    for step in range(2):
        engine.backward(engine(torch.ones(2, 32)).square().mean())
        engine.step()
        if step == 1 and world.rank == 1 and held_s is not None:
            _cut_writes(held_s)
        engine.save_checkpoint(folder, tag=f"step{step}")
    finish(world)
    return 0


def _cut_writes(held_s: float) -> None:
    """Make torch.save write half of a file, pause, and kill this process."""
    import torch

    whole = torch.save

    def half(obj: Any, place: Any, *words: Any, **more: Any) -> None:
        kept = io.BytesIO()
        whole(obj, kept, *words, **more)
        data = kept.getvalue()[: kept.tell() // 2]
        if hasattr(place, "write"):
            place.write(data)
            place.flush()
        else:
            Path(place).write_bytes(data)
        time.sleep(held_s)
        os.kill(os.getpid(), signal.SIGKILL)

    torch.save = half
