"""`pdpc train`: check at the door, then start the ranks with the DeepSpeed launcher and stay their supervisor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from train.settings import TrainSettings


def run(settings: TrainSettings, overrides: Sequence[str]) -> int:
    """Check at the door, start the run's ranks on this machine with `overrides`, and wait; return their exit code."""
    from train.engine import deepspeed_config
    from train.identity import check_acceptable
    from train.inputs import open_inputs
    from train.runfolder import finished
    from train.world import SUPERVISOR, free_port

    check_acceptable(settings.accept_change)
    inputs = open_inputs(settings)
    processes = settings.processes or max(1, _gpus())
    deepspeed_config(settings, inputs.order.batch_size, processes)
    if finished(Path(settings.output), settings, inputs):
        print(f"run {settings.output} is finished: reused")
        return 0
    command = [
        sys.executable,
        "-m",
        "deepspeed.launcher.runner",
        "-q",
        "--hostfile",
        "none",
        "--num_gpus",
        str(processes),
        "--master_addr",
        "127.0.0.1",
        "--master_port",
        str(free_port()),
        "--no_local_rank",
        "--module",
        "train",
        *overrides,
    ]
    threads = settings.threads or max(1, (os.cpu_count() or 1) // processes)
    environment = {
        **os.environ,
        SUPERVISOR: str(os.getpid()),
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
        "DEEPSPEED_LOG_LEVEL": "warning",
        **({} if _gpus() else {"DS_ACCELERATOR": "cpu"}),
    }
    code = supervise(command, environment)
    if code == 0 and not finished(Path(settings.output), settings, inputs):
        # DeepSpeed's launcher also answers 0 when a part of it was killed by a signal.
        print(f"run {settings.output} was cut off: run the same command again to go on", file=sys.stderr)
        return 1
    return code


def supervise(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a launcher in a session of its own, hand on signals to all of its processes, and leave none behind.

    The DeepSpeed launcher itself orphans its ranks when it is signalled; a process group does not.
    """
    launcher = subprocess.Popen(command, env=dict(environment), start_new_session=True)

    def hand_on(number: int, _frame: FrameType | None) -> None:
        _signal_group(launcher.pid, number)

    handlers = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        code = launcher.wait()
    finally:
        _signal_group(launcher.pid, signal.SIGKILL)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return code if code >= 0 else 128 - code


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
