"""`pdpc train`: check the inputs, start the ranks with the DeepSpeed launcher, and supervise them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from curriculum.work.cpus import threads_per_process
from launch.cluster.supervisor import gpus, start_ranks
from train.distributed.exit_codes import FAILED, OUT_OF_MEMORY, UNREADABLE
from train.settings import TrainSettings


def run(settings: TrainSettings, overrides: Sequence[str]) -> int:
    """Check the inputs, start the ranks on this machine with `overrides`, and wait; return their exit code."""
    from train.engine.config import deepspeed_config
    from train.inputs import check_scores, open_inputs
    from train.memory.available import oom_kills
    from train.resume.identity import check_acceptable
    from train.resume.runfolder import finished

    check_acceptable(settings.accept_change)
    inputs = open_inputs(settings)
    processes = settings.processes or max(1, gpus())
    deepspeed_config(settings, inputs.order.batch_size, processes)
    if finished(Path(settings.output), settings, inputs):
        print(f"run {settings.output} is finished: reused")
        return 0
    check_scores(settings, inputs)
    threads = threads_per_process(processes, settings.threads)
    kills = oom_kills()
    print(
        f"starting {processes} rank{'s' if processes > 1 else ''}: {inputs.order.steps} steps into {settings.output}",
        flush=True,
    )
    code = start_ranks("train", processes, overrides, threads, settings.hang_timeout_s, reports_codes=True)
    if code == FAILED:
        code = _explained(settings, killed=oom_kills() > kills)
    if code == 0 and not finished(Path(settings.output), settings, inputs):
        print(f"run {settings.output} did not finish: run the same command again to resume", file=sys.stderr)
        return FAILED
    return code


def _explained(settings: TrainSettings, *, killed: bool) -> int:
    """Return the exit code for a run with a rank that died silently, and print the cause if it can be determined.

    The kernel kills a rank that touches a mapped file after its truncation (SIGBUS), or that exceeds the available
    memory (SIGKILL): neither can report it.
    """
    from curriculum.artifact.files import ArtifactError
    from train.inputs import open_inputs

    try:
        open_inputs(settings)
    except (ArtifactError, OSError) as error:
        print(f"pdpc train: {error}", file=sys.stderr)
        return UNREADABLE
    if killed:
        print(
            "pdpc train: out of memory: the kernel's OOM killer ended a process of this cgroup: lower micro_batch_size="
            f"{settings.micro_batch_size} or processes, and run the same command again",
            file=sys.stderr,
        )
        return OUT_OF_MEMORY
    return FAILED
