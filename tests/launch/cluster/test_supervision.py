"""The supervisor of `pdpc train`: signals to its ranks, exit codes from them, and no process left behind."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from benchmarks.processes import PLACE
from launch.cluster.remote import Remote
from launch.cluster.supervisor import start_ranks, supervise
from tests.torture.runs import PATIENCE_S
from tests.train.descendants import descendants
from train.distributed import heartbeat


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ({0: 0, 1: 0}, 0),
        ({0: 143, 1: 143}, 143),
        ({0: 143, 1: 1}, 1),
        ({0: 1, 1: 75}, 75),
        ({0: 71, 1: 1}, 71),
        ({0: 1, 1: 74}, 74),
        ({0: 79, 1: None}, 79),
        ({0: 143, 1: None}, 1),
        ({0: 2, 1: 2}, 2),
        ({0: 70, 1: 143}, 70),
        ({}, None),
    ],
)
def test_one_exit_code_represents_all_ranks(codes, expected, tmp_path, monkeypatch):
    monkeypatch.setenv(heartbeat.VARIABLE, str(tmp_path))
    for rank, code in codes.items():
        monkeypatch.setenv("RANK", str(rank))
        heartbeat.report_in()
        if code is not None:
            heartbeat.report_code(code)
    assert heartbeat.code(tmp_path) == expected
    assert set(heartbeat.pids(tmp_path)) == set(codes)


def test_silence_counts_only_the_time_that_the_supervisor_ran(tmp_path, monkeypatch):
    monkeypatch.setenv(heartbeat.VARIABLE, str(tmp_path))
    now = 100.0
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now)
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        heartbeat.report_in()
    silence = heartbeat.Silence(tmp_path, 1.0)
    assert silence.poll() == {0: 0.0, 1: 0.0}
    for beat in range(1, 4):  # rank 0 keeps running, with its clock set back an hour; rank 1 is stopped
        now += 0.5
        os.utime(tmp_path / "00000.pid", (beat, 3600 - beat))
        assert silence.poll() == {0: 0.0, 1: 0.5 * beat}
    now += 1000.0  # all processes were stopped, including the supervisor
    assert silence.poll() == {0: 1.0, 1: 2.5}
    now += 0.5
    for rank in (0, 1):
        os.utime(tmp_path / f"{rank:05d}.pid")
    assert silence.poll() == {0: 0.0, 1: 0.0}
    (tmp_path / "00001.pid").unlink()
    assert silence.poll() == {0: 0.0}


RANK = """
import os, signal, sys, time
from train.distributed import heartbeat
heartbeat.report_in()
print("started", flush=True)
{body}
"""


def supervisor(command, timeout_s=None, inherits=True, roll=None, path=None):
    """Supervise `command` in a forked process; with `roll`, as the launcher of one rank on each of two machines."""
    if path is not None:
        os.environ["PATH"] = f"{path}:{os.environ['PATH']}"
    remote = None if roll is None else Remote(["a", "b"], 1, Path(roll))
    return supervise(command, os.environ if inherits else {}, timeout_s, remote=remote)


@pytest.fixture
def supervised(forks, tmp_path):
    """Return a function that starts a supervisor of a Python program; both write to one log."""

    def start(program, **arguments):
        arguments["command"] = [sys.executable, "-c", program]
        return forks.start(f"{__name__}:supervisor", arguments, 1, tmp_path / "log")

    return start


def test_a_stopped_rank_is_ended_by_its_supervisor(capfd):
    began = time.monotonic()
    command = [sys.executable, "-c", RANK.format(body="os.kill(os.getpid(), signal.SIGSTOP)")]
    assert supervise(command, os.environ, 1.0) == 79
    assert time.monotonic() - began < 40  # on a loaded machine too; otherwise the rank would stay stopped
    assert "started" in capfd.readouterr().out


def test_a_run_that_was_stopped_as_a_whole_continues(supervised, tmp_path):
    body = f"""
print(os.getpid(), "running", flush=True)
while not os.path.exists({str(tmp_path / "over")!r}):
    heartbeat.still_here()
    time.sleep(0.1)
heartbeat.report_code(0)
"""
    process = supervised(RANK.format(body=body), timeout_s=1.0)
    rank = int(process.wait_for("running\n").split()[-2])
    time.sleep(1.0)
    process.kill(signal.SIGSTOP, [rank, *process.pids])
    time.sleep(4.0)
    process.kill(signal.SIGCONT)
    time.sleep(0.3)  # the supervisor runs again first, and polls the ranks
    process.kill(signal.SIGCONT, [rank])
    (tmp_path / "over").touch()
    assert process.wait(60) == [0], process.told()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_signals_reach_the_ranks_and_their_code_comes_back(number, supervised):
    arrives = signal.SIGTERM if number == signal.SIGHUP else number
    body = f"""
signal.signal({int(arrives)}, lambda n, f: (heartbeat.report_code(128 + n), os._exit(9)))
print("ready", flush=True)
time.sleep(60)
"""
    process = supervised(RANK.format(body=body))
    process.wait_for("ready")
    process.kill(number)
    assert process.wait(60) == [128 + arrives], process.told()


def launched_ranks():
    """Start two ranks with DeepSpeed's launcher in a forked process."""
    for name in PLACE:
        os.environ.pop(name, None)
    return start_ranks("tests.launch.cluster.signalled_rank", 2, [], threads=1, reports_codes=True)


def test_sigterm_reaches_the_ranks_and_leaves_no_process(forks, tmp_path):
    """With DeepSpeed's launcher in between, which would kill them; test_guards_ranks.py has what real ranks then do."""
    process = forks.start(f"{__name__}:launched_ranks", {}, 1, tmp_path / "log")
    for rank in range(2):
        process.wait_for(f"rank {rank} is ready\n", PATIENCE_S)
    below = descendants(process.pids[0])
    assert len(below) >= 4  # both of DeepSpeed's launchers and the ranks
    process.kill(signal.SIGTERM)
    assert process.wait(PATIENCE_S) == [143], process.told()
    assert not [pid for pid in below if Path(f"/proc/{pid}").exists()]


def test_a_signal_before_the_ranks_have_started_exits_cleanly(supervised):
    process = supervised("import time; print(1, flush=True); time.sleep(60)", inherits=False, timeout_s=30.0)
    process.wait_for("1\n")  # the launcher runs, but no rank has reported
    process.kill(signal.SIGINT)
    assert process.wait(30) == [130]
    assert process.told() == "1\nSIGINT arrived before the ranks had started: run the same command again\n"


def test_before_all_ranks_have_started_the_launcher_ends_them_on_other_machines(supervised, tmp_path):
    launcher = (
        "import os, signal, sys, time\n"
        "def end(*_):\n    os.write(1, b'ranks ended\\n')\n    sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, end)\nos.write(1, b'1\\n')\ntime.sleep(60)"
    )
    process = supervised(launcher, inherits=False, roll=str(tmp_path / "roll"))
    process.wait_for("1\n")
    process.kill(signal.SIGINT)
    assert process.wait(30) == [130]
    assert process.told().startswith("1\nranks ended\n")
    assert not (tmp_path / "roll").exists()


REMOTE = """
import os, signal, subprocess, sys, time
def body(rank):
    os.environ["RANK"] = str(rank)
    from train.distributed import heartbeat
    def end(number, _):
        heartbeat.report_code(128 + number)
        os._exit(0)
    signal.signal(signal.SIGTERM, end)
    heartbeat.report_in()
    time.sleep(60)
pids = []
for rank in range(2):
    pid = os.fork()
    if pid == 0:
        body(rank)
    pids.append(pid)
while len([name for name in os.listdir(os.environ["PDPC_ROLL"]) if name.endswith(".pid")]) < 2:
    time.sleep(0.02)
print("ready", flush=True)
{then}
for pid in pids:
    os.waitpid(pid, 0)
sys.exit({code})
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_the_ranks_on_other_machines_and_their_code_comes_back(number, supervised, tmp_path):
    ssh = tmp_path / "bin" / "ssh"
    ssh.parent.mkdir()
    ssh.write_text(f'#!/usr/bin/env bash\necho "$5" >> {tmp_path}/machines\nexec "${{@:6}}"\n')
    ssh.chmod(0o755)
    program = REMOTE.format(then="", code=1)
    process = supervised(program, roll=str(tmp_path / "roll"), path=str(ssh.parent))
    process.wait_for("ready")
    process.kill(number)
    assert process.wait(60) == [143], process.told()
    assert sorted((tmp_path / "machines").read_text().split()) == ["a", "b"]


def test_a_lost_machine_is_named_with_its_ranks(supervised, tmp_path):
    then = "os.kill(pids[1], signal.SIGKILL); open(os.environ['PDPC_ROLL'] + '/00000.code', 'w').write('79')"
    then += "; os.kill(pids[0], signal.SIGKILL)"
    process = supervised(REMOTE.format(then=then, code=255), roll=str(tmp_path / "roll"))
    assert process.wait(60) == [79], process.told()
    assert "rank 1 on b: no exit code: the machine was lost, or the process killed" in process.told()


def test_a_rank_that_was_killed_is_named(capfd):
    ranks = (
        "import os, signal; from train.distributed import heartbeat\n"
        "for rank in (0, 1):\n    os.environ['RANK'] = str(rank); heartbeat.report_in()\n"
        "os.environ['RANK'] = '0'; heartbeat.report_code(1)"
    )
    assert supervise([sys.executable, "-c", ranks], os.environ, reports_codes=True) == 1
    expected = "rank 1 died without an exit code, as after SIGKILL: run the same command again to resume\n"
    assert capfd.readouterr().err == expected


def leaving():
    """Leave as a rank does, with gloo's threads still running."""
    import torch

    from train.distributed.heartbeat import leave
    from train.engine.communication import start

    start(threads=1).all_sum(torch.ones(1000))
    leave(7)


def test_ranks_that_leave_are_not_aborted_by_running_threads(forks, tmp_path):
    """In a normal interpreter shutdown, a gloo thread may abort a rank (-6), whether or not its work is done."""
    for _ in range(5):
        ranks = forks.start(f"{__name__}:leaving", {}, 2, tmp_path / "log")
        assert ranks.wait(60) == [7, 7], ranks.told()
    assert "terminate called" not in ranks.told()
