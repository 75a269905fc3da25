"""Engine `deepspeed`: ranks of the DeepSpeed launcher, on one machine or many with the output on a shared disk.

Rank 0 says which chunks are missing; a counter in the ranks' own store says which of them comes next, so that a rank
takes a chunk when it is free. A rank that dies ends the launcher's ranks; the next run does what is missing.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from curriculum.artifact import MANIFEST
from curriculum.chunks import Chunk
from curriculum.scoring import NOTES, ScoringJob, progress_of

if TYPE_CHECKING:
    from launch.score import ScoreSettings
    from train.world import World

log = logging.getLogger(__name__)

NEXT, TOKENS, SAMPLES = "pdpc/score/next", "pdpc/score/tokens", "pdpc/score/samples"


def start(settings: ScoreSettings, overrides: Sequence[str]) -> int:
    """Start the ranks on this machine with `overrides`, and wait; return their exit code."""
    from launch.scoring.local import usual_processes
    from launch.start import launcher_command, launcher_environment, supervise

    processes = settings.processes or usual_processes(1 << 30)
    command = launcher_command("launch.scoring", processes, overrides)
    environment = launcher_environment(settings.threads)
    code = supervise(command, environment)
    if code == 0 and not (Path(settings.output) / MANIFEST).is_file():
        # DeepSpeed's launcher also answers 0 when a part of it was killed by a signal.
        print(f"scores {settings.output} were cut off: run the same command again to go on", file=sys.stderr)
        return 1
    return code


def score(settings: ScoreSettings, world: World) -> None:
    """Be one rank: score chunks until none is left; rank 0 then puts them together."""
    from launch.scoring.work import open_job
    from train.faults import arm, fault

    arm()
    job = open_job(settings, fault)
    with ExitStack() as held:
        missing = _missing(job, world, held)
        if missing is None:
            return
        _take(settings, job, world, missing)
        world.barrier()
    world.first_does(job.finish)


def _missing(job: ScoringJob, world: World, held: ExitStack) -> list[Chunk] | None:
    """Return the missing chunks, the same on all ranks; None where the scores are there. Rank 0 holds the folder."""
    import torch

    flags = torch.zeros(len(job.chunks) + 1, dtype=torch.int64)

    def look() -> None:
        if job.reused() is not None:
            flags[-1] = 1
            return
        held.enter_context(job.store.held())
        job.store.begin()
        wanted = set(job.store.missing(job.chunks))
        flags[:-1] = torch.tensor([int(chunk in wanted) for chunk in job.chunks])

    world.first_does(look)
    told = world.all_sum(flags.to(world.device)).tolist()
    return None if told[-1] else [chunk for chunk, flag in zip(job.chunks, told, strict=False) if flag]


def _take(settings: ScoreSettings, job: ScoringJob, world: World, missing: list[Chunk]) -> None:
    """Score chunk after chunk, each the next that nobody has taken."""
    import torch
    import torch.distributed as dist

    from launch.scoring.work import load_scorer, roof_of

    store = dist.distributed_c10d._get_default_store()
    scorer = load_scorer(settings, job, world.local_rank)
    if world.first:
        job.store.note(NOTES, scorer.notes())
    roof = torch.tensor([roof_of(scorer)], dtype=torch.float64, device=world.device)
    world.all_sum(roof)
    with ExitStack() as stack:
        progress = stack.enter_context(progress_of(job, missing, float(roof.item()))) if world.first else None
        shown = [0, 0]
        while (place := store.add(NEXT, 1) - 1) < len(missing):
            chunk = missing[place]
            job.store.write(chunk, scorer.score(chunk))
            now = [store.add(SAMPLES, chunk.stop - chunk.start), store.add(TOKENS, job.real_tokens(chunk))]
            if progress is not None:  # rank 0 speaks for all
                progress.add(now[0] - shown[0], now[1] - shown[1])
                shown = now
