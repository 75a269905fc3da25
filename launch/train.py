"""`pdpc train`: check at the door, then start the ranks with the DeepSpeed launcher and stay their supervisor."""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType

from train.distributed.exit_codes import FAILED, HUNG, OUT_OF_MEMORY, PORT_TAKEN, UNREADABLE
from train.settings import TrainSettings

HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Signals that go on to the ranks."""
MOST_PORTS = 4
"""Ports of this machine that are tried, one after the other."""
POLL_S = 0.5
"""How often the ranks are looked at."""
MARGIN_S = 1.5
"""How much longer the supervisor waits than the ranks, which know more of each other."""


def run(settings: TrainSettings, overrides: Sequence[str]) -> int:
    """Check at the door, start the run's ranks on this machine with `overrides`, and wait; return their exit code."""
    from train.engine import deepspeed_config
    from train.inputs import check_scores, open_inputs
    from train.memory.available import oom_kills
    from train.resume.identity import check_acceptable
    from train.resume.runfolder import finished

    check_acceptable(settings.accept_change)
    inputs = open_inputs(settings)
    processes = settings.processes or max(1, _gpus())
    deepspeed_config(settings, inputs.order.batch_size, processes)
    if finished(Path(settings.output), settings, inputs):
        print(f"run {settings.output} is finished: reused")
        return 0
    check_scores(settings, inputs)
    threads = settings.threads or max(1, (os.cpu_count() or 1) // processes)
    kills = oom_kills()
    print(
        f"starting {processes} rank{'s' if processes > 1 else ''}: {inputs.order.steps} steps into {settings.output}",
        flush=True,
    )
    code = start_ranks("train", processes, overrides, threads, settings.hang_timeout_s, speaking=True)
    if code == FAILED:
        code = _explained(settings, killed=oom_kills() > kills)
    if code == 0 and not finished(Path(settings.output), settings, inputs):
        print(f"run {settings.output} was cut off: run the same command again to go on", file=sys.stderr)
        return FAILED
    return code


def _explained(settings: TrainSettings, *, killed: bool) -> int:
    """Return the code of a run of which a rank died without a word, and say why where that can be found out.

    A rank that touches a mapped file just when it is cut is ended by the kernel (SIGBUS), one that has more than there
    is by SIGKILL: neither can speak for itself.
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
            "pdpc train: the kernel killed a process of this control group for want of memory: lower micro_batch_size="
            f"{settings.micro_batch_size} or processes, and run the same command again",
            file=sys.stderr,
        )
        return OUT_OF_MEMORY
    return FAILED


def start_ranks(
    module: str,
    processes: int,
    words: Sequence[str],
    threads: int,
    hang_timeout_s: float | None = None,
    *,
    speaking: bool = False,
) -> int:
    """Start `python -m MODULE WORDS` as ranks on this machine with DeepSpeed's launcher; return their exit code.

    `speaking`: its ranks say with which code they leave, whatever signal comes, but for SIGKILL.
    """

    def command(port: int) -> list[str]:
        launcher = [sys.executable, "-m", "deepspeed.launcher.runner", "--hostfile", "none"]
        launcher += ["--log_level", "critical"]  # every end but 0 is an error to it
        launcher += ["--num_gpus", str(processes), "--master_addr", "127.0.0.1", "--master_port", str(port)]
        return [*launcher, "--no_local_rank", "--module", module, *words]

    return on_free_port(command, launcher_environment(threads), hang_timeout_s, speaking=speaking)


def on_free_port(
    command: Callable[[int], Sequence[str]],
    environment: Mapping[str, str],
    hang_timeout_s: float | None = None,
    *,
    speaking: bool = False,
) -> int:
    """Run the launcher that `command` gives for a free port of this machine; on another port when it was taken since.

    Seconds pass between the choice of a port and the moment in which rank 0 listens there.
    """
    from train.distributed.rendezvous import LIFE
    from train.distributed.world import free_port

    for left in reversed(range(MOST_PORTS)):
        port = free_port()
        code = supervise(command(port), {**environment, LIFE: secrets.token_hex(8)}, hang_timeout_s, speaking=speaking)
        if code != PORT_TAKEN:
            break
        if left:
            print(f"port {port} was taken before the ranks could meet there: another one is tried", file=sys.stderr)
    return code


def launcher_environment(threads: int) -> dict[str, str]:
    """Return the environment of a launcher; its ranks have so many CPU threads, and leave when this process is gone."""
    from train.distributed.world import SUPERVISOR

    return {
        **os.environ,
        SUPERVISOR: str(os.getpid()),
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
        "DEEPSPEED_LOG_LEVEL": "warning",
        **({} if _gpus() else {"DS_ACCELERATOR": "cpu"}),
    }


def supervise(
    command: Sequence[str],
    environment: Mapping[str, str],
    hang_timeout_s: float | None = None,
    *,
    speaking: bool = False,
    elsewhere: bool = False,
) -> int:
    """Run a launcher in a session of its own and leave no process behind; return the code that speaks for its ranks.

    Signals go to the ranks alone, once they have started: DeepSpeed's launcher would end them itself, and orphans them
    when it is ended. A rank that is stopped (SIGSTOP) for longer than `hang_timeout_s` is ended with all others.
    `speaking` as in `start_ranks`; `elsewhere`: ranks are on other machines too, and the launcher ends them.
    """
    from train.distributed import heartbeat
    from train.distributed.watchdog import end_processes

    # A rank that is silent for longer would have been found out by the other ranks by now.
    limit_s = math.inf if hang_timeout_s is None else hang_timeout_s + MARGIN_S
    with tempfile.TemporaryDirectory(prefix="pdpc_roll_") as name:
        folder = Path(name)
        launcher = subprocess.Popen(command, env={**environment, heartbeat.ROLL: name}, start_new_session=True)
        silence, hung, ended_by = heartbeat.Silence(folder, 2 * POLL_S), False, 0

        def hand_on(number: int, _frame: FrameType | None) -> None:
            nonlocal ended_by
            ranks = heartbeat.pids(folder)
            for pid in ranks.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            if elsewhere and not ranks:
                _signal_group(launcher.pid, number)
            elif not ranks:
                ended_by = number
                _signal_group(launcher.pid, signal.SIGKILL)

        handlers = {number: signal.signal(number, hand_on) for number in HANDED_ON}
        try:
            while (code := _waited(launcher)) is None:
                silent_s = silence.poll()
                if silent := [pid for rank, pid in heartbeat.pids(folder).items() if silent_s.get(rank, 0.0) > limit_s]:
                    hung = True
                    print(f"a rank was silent for {hang_timeout_s:g} s: the run is ended", file=sys.stderr)
                    end_processes(silent)
                    _signal_group(launcher.pid, signal.SIGKILL)
        finally:
            _signal_group(launcher.pid, signal.SIGKILL)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if ended_by:
            name = signal.Signals(ended_by).name
            print(f"{name} before the ranks had started: run the same command again", file=sys.stderr)
            return 128 + ended_by
        if hung:
            return HUNG
        if speaking and (mute := heartbeat.mute(folder)):
            told = f"rank {mute[0]}" if len(mute) == 1 else f"ranks {', '.join(map(str, mute))}"
            print(f"{told} ended without a word, as by SIGKILL: run the same command again to go on", file=sys.stderr)
        spoken = heartbeat.code(folder)
    if spoken is not None:
        return spoken
    return code if code >= 0 else 128 - code


def _waited(launcher: subprocess.Popen[bytes]) -> int | None:
    """Return the launcher's exit code; None when it is still there after a moment."""
    try:
        return launcher.wait(timeout=POLL_S)
    except subprocess.TimeoutExpired:
        return None


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()
