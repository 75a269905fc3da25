"""Ranks of this machine: started through DeepSpeed's launcher, watched, and ended together."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from curriculum.work.cpus import OMP
from launch.cluster.remote import Remote
from train.config.safe_path import safe_variables
from train.distributed import heartbeat
from train.distributed.exit_codes import DONE, HUNG, LEFT
from train.distributed.tasks import check_alone

FORWARDED_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
"""Signals that the supervisor forwards to the ranks; SIGHUP, from a closed terminal, as SIGTERM."""


ON_THIS_MACHINE = ("--hostfile", os.devnull)
"""Arguments of DeepSpeed's launcher for ranks here: by default it reads /job/hostfile, and any name could be a file."""
DEVICES = "CUDA_VISIBLE_DEVICES"
"""The GPUs of a process, by number."""
DRIVERS = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg", "/proc/driver/nvidia")
"""Files of the kernel's GPU drivers: of NVIDIA, AMD, and of Windows below WSL."""
POLL_S = 0.5
"""Interval at which the ranks are polled."""


MARGIN_S = 1.5
"""How much longer the supervisor waits than the ranks, which know more about each other."""


def start_ranks(
    module: str,
    processes: int,
    words: Sequence[str],
    threads: int,
    hang_timeout_s: float | None = None,
    *,
    reports_codes: bool = False,
) -> int:
    """Start `python -m MODULE WORDS` as ranks on this machine with DeepSpeed's launcher; return their exit code.

    A single rank is started without the launcher: its two processes would each import torch and DeepSpeed first.
    `reports_codes`: the ranks report their exit code after any signal except SIGKILL. Raises ValueError for more
    processes than CUDA_VISIBLE_DEVICES has GPUs, and for one of several tasks of srun or mpirun.
    """
    check_alone("a command of pdpc")
    if processes == 1:
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
        if visible := devices():
            alone[DEVICES] = visible[0]
        command = [sys.executable, "-m", module, *words]
        return supervise(command, launcher_environment(threads) | alone, hang_timeout_s, reports_codes=reports_codes)
    command = [sys.executable, "-m", "deepspeed.launcher.runner", *ON_THIS_MACHINE]
    command += ["--log_level", "critical"]  # it logs every nonzero exit as an error
    command += [*slots(processes), "--no_local_rank", "--module", module, *words]
    return supervise(command, launcher_environment(threads), hang_timeout_s, reports_codes=reports_codes)


def slots(processes: int) -> list[str]:
    """Return DeepSpeed's arguments for this many ranks here: on the GPUs in CUDA_VISIBLE_DEVICES, or on the first ones.

    With --num_gpus, its launcher takes the first ones whatever CUDA_VISIBLE_DEVICES says. A list that holds other names
    than numbers (GPU-..., MIG-...) cannot be passed on. Raises ValueError for more processes than GPUs in the list.
    """
    visible = devices() if DEVICES in os.environ else []
    if not visible or not all(one.isdecimal() for one in visible):
        return ["--num_gpus", str(processes)]
    if processes > len(visible):
        raise ValueError(
            f"processes={processes}, but {DEVICES}={os.environ[DEVICES]} has {len(visible)}: lower processes, or make "
            "more GPUs visible"
        )
    return ["--include", f"localhost:{','.join(visible[:processes])}"]


def devices() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them; all of the machine without it."""
    count = gpus()
    named = [one.strip() for one in os.environ.get(DEVICES, "").split(",") if one.strip()]
    return named[:count] if DEVICES in os.environ else [str(number) for number in range(count)]


def launcher_environment(threads: int) -> dict[str, str]:
    """Return a launcher's environment: its ranks use `threads` CPU threads and exit when this process is gone.

    The user's own OMP_NUM_THREADS stays as it is; a rank's settings take precedence over it inside the rank.
    """
    from train.distributed.heartbeat import SUPERVISOR

    return {
        OMP: str(threads),
        **os.environ,
        **safe_variables(),
        SUPERVISOR: str(os.getpid()),
        "PYTHONUNBUFFERED": "1",
        "DEEPSPEED_LOG_LEVEL": "warning",
        **({} if gpus() else {"DS_ACCELERATOR": "cpu"}),
    }


def supervise(
    command: Sequence[str],
    environment: Mapping[str, str],
    hang_timeout_s: float | None = None,
    *,
    reports_codes: bool = False,
    remote: Remote | None = None,
) -> int:
    """Run a launcher in a new session and leave no process behind; return the exit code that represents its ranks.

    Once the ranks have started, signals go only to them: DeepSpeed's launcher would kill them on a signal, and orphans
    them when killed itself. If a rank is stopped (SIGSTOP) for longer than `hang_timeout_s`, all ranks are killed.
    `reports_codes`: as in `start_ranks`; `remote`: the ranks, if they run on other machines. Ranks of this machine meet
    in a file of a new folder that only this user can enter: nothing listens on a port.
    """
    from train.distributed.heartbeat import STORE

    # If the other ranks could still run, they would have detected a rank that is silent for this long.
    limit_s = math.inf if hang_timeout_s is None else hang_timeout_s + MARGIN_S
    with _roll(remote) as folder:
        launcher: subprocess.Popen[bytes] | None = None
        silence, hung, ended_by = heartbeat.Silence(folder, 2 * POLL_S), False, 0

        def forward(number: int, _frame: FrameType | None) -> None:
            nonlocal ended_by
            number = signal.SIGTERM if number == signal.SIGHUP else number
            if launcher is None:  # it is being started
                ended_by = number
                return
            if remote is not None and remote.started():
                remote.signal(number)
                return
            if remote is not None:
                ended_by = number
                _signal_group(launcher.pid, signal.SIGTERM)  # DeepSpeed's launcher ends the ranks that it has started
                return
            ranks = heartbeat.pids(folder)
            for pid in ranks.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            if not ranks:
                ended_by = number
                _signal_group(launcher.pid, signal.SIGKILL)

        heard = [number for number in FORWARDED_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]  # nohup
        handlers = {number: signal.signal(number, forward) for number in heard}
        try:
            passed = {**environment, heartbeat.VARIABLE: str(folder)}
            if remote is None:
                passed[STORE] = f"{folder}/store"
            launcher = subprocess.Popen(command, env=passed, start_new_session=True)
            if ended_by:
                _signal_group(launcher.pid, signal.SIGKILL)
            while (code := _waited(launcher)) is None:
                silent_s = silence.poll() if remote is None else {}
                if silent := [pid for rank, pid in heartbeat.pids(folder).items() if silent_s.get(rank, 0.0) > limit_s]:
                    from train.distributed.watchdog import end_processes  # torch, which is not needed before

                    hung = True
                    print(f"a rank sent no heartbeat for {hang_timeout_s:g} s: ending the run", file=sys.stderr)
                    end_processes(silent)
                    _signal_group(launcher.pid, signal.SIGKILL)
        finally:
            if launcher is not None:
                _signal_group(launcher.pid, signal.SIGKILL)
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if ended_by:
            name = signal.Signals(ended_by).name
            print(f"{name} arrived before the ranks had started: run the same command again", file=sys.stderr)
            return 128 + ended_by
        if hung:
            return HUNG
        if remote is not None:
            return _code_of(remote, code)
        if reports_codes and (silent := heartbeat.silent_ranks(folder)):
            names = f"rank {silent[0]}" if len(silent) == 1 else f"ranks {', '.join(map(str, silent))}"
            print(
                f"{names} died without an exit code, as after SIGKILL: run the same command again to resume",
                file=sys.stderr,
            )
        reported = heartbeat.code(folder)
    if reported is not None:
        return reported
    return code if code >= 0 else 128 - code


@contextlib.contextmanager
def _roll(remote: Remote | None) -> Iterator[Path]:
    """Yield a new folder in which the ranks report, and remove it: that of ranks on other machines, or one here."""
    if remote is None:
        with tempfile.TemporaryDirectory(prefix="pdpc_roll_") as name:
            yield Path(name)
        return
    remote.roll.mkdir(mode=0o700)
    try:
        yield remote.roll
    finally:
        shutil.rmtree(remote.roll, ignore_errors=True)


def _code_of(remote: Remote, code: int) -> int:
    """Return the exit code of ranks on other machines, given the launcher's, and name the ranks that reported none."""
    silent = heartbeat.silent_ranks(remote.roll)
    if not silent or code not in (DONE, *LEFT):  # else a network file system may not show their files yet
        reported = heartbeat.code(remote.roll)
        code = code if reported is None else reported
    if silent and code not in (DONE, *LEFT):
        print(
            f"{remote.named(silent)}: no exit code: the machine was lost, or the process killed; check it, then run "
            "the same command again to resume",
            file=sys.stderr,
        )
    return code if code >= 0 else 128 - code


def _waited(launcher: subprocess.Popen[bytes]) -> int | None:
    """Return the launcher's exit code; None if it is still running after POLL_S."""
    try:
        return launcher.wait(timeout=POLL_S)
    except subprocess.TimeoutExpired:
        return None


def _signal_group(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return


def gpus() -> int:
    """Return the number of GPUs on this machine; torch is loaded only where a driver for one is."""
    if "torch" not in sys.modules and not any(map(os.path.exists, DRIVERS)):
        return 0
    import torch

    return torch.cuda.device_count()
