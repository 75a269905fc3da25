"""The supervisor of `pdpc train`: signals and exit codes between it and its ranks, and no process left."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from launch.train import supervise
from tests.torture.runs import Material
from tests.train.descendants import descendants
from train.distributed import heartbeat
from train.export.export import newest_checkpoint
from train.resume.runfolder import read_run

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize(
    ("left", "speaks"),
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
def test_one_code_speaks_for_all_ranks(left, speaks, tmp_path, monkeypatch):
    monkeypatch.setenv(heartbeat.ROLL, str(tmp_path))
    for rank, code in left.items():
        monkeypatch.setenv("RANK", str(rank))
        heartbeat.report_in()
        if code is not None:
            heartbeat.report_code(code)
    assert heartbeat.code(tmp_path) == speaks
    assert set(heartbeat.pids(tmp_path)) == set(left)


def test_silence_is_counted_in_time_that_was_lived(tmp_path, monkeypatch):
    monkeypatch.setenv(heartbeat.ROLL, str(tmp_path))
    now = 100.0
    monkeypatch.setattr(heartbeat.time, "monotonic", lambda: now)
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        heartbeat.report_in()
    silence = heartbeat.Silence(tmp_path, 1.0)
    assert silence.poll() == {0: 0.0, 1: 0.0}
    for beat in range(1, 4):  # rank 0 goes on, by a clock that is set back an hour; rank 1 is stopped
        now += 0.5
        os.utime(tmp_path / "00000.pid", (beat, 3600 - beat))
        assert silence.poll() == {0: 0.0, 1: 0.5 * beat}
    now += 1000.0  # all of them were stopped, the supervisor too
    assert silence.poll() == {0: 1.0, 1: 2.5}
    now += 0.5
    for rank in (0, 1):
        os.utime(tmp_path / f"{rank:05d}.pid")
    assert silence.poll() == {0: 0.0, 1: 0.0}
    (tmp_path / "00001.pid").unlink()
    assert silence.poll() == {0: 0.0}


SUPERVISED = (
    "import os, sys; from launch.train import supervise; sys.exit(supervise({command!r}, os.environ, {timeout}))"
)
RANK = """
import os, signal, sys, time
from train.distributed import heartbeat
heartbeat.report_in()
print("started", flush=True)
{body}
"""


def supervised(body, timeout):
    command = [sys.executable, "-c", RANK.format(body=body)]
    program = SUPERVISED.format(command=command, timeout=timeout)
    return subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_a_stopped_rank_is_ended_by_its_supervisor():
    process = supervised("os.kill(os.getpid(), signal.SIGSTOP)", 1.0)
    assert "started" in process.stdout.readline()
    began = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode == 79
    assert time.monotonic() - began < 1.0 + 5


def test_a_run_that_was_stopped_as_a_whole_goes_on():
    body = """
print(os.getpid(), flush=True)
for _ in range(30):
    heartbeat.still_here()
    time.sleep(0.1)
heartbeat.report_code(0)
"""
    process = supervised(body, 1.0)
    assert "started" in process.stdout.readline()
    rank = int(process.stdout.readline())
    time.sleep(1.0)
    for pid in (rank, process.pid):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(4.0)
    os.kill(process.pid, signal.SIGCONT)
    time.sleep(0.3)  # the supervisor is the first to run again, and looks at the ranks
    with contextlib.suppress(ProcessLookupError):
        os.kill(rank, signal.SIGCONT)
    process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_signals_reach_the_ranks_and_their_code_comes_back(number):
    body = f"""
signal.signal({int(number)}, lambda n, f: (heartbeat.report_code(128 + n), os._exit(9)))
print("ready", flush=True)
time.sleep(60)
"""
    process = supervised(body, None)
    while "ready" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(number)
    process.communicate(timeout=60)
    assert process.returncode == 128 + number


def test_the_launcher_hands_on_sigterm_and_leaves_no_process(tmp_path):
    """The whole chain, with DeepSpeed's launcher in between: a checkpoint, code 143, no process left."""
    material = Material.make(tmp_path / "material", stages=1, samples=300)
    words = [*material.words, "checkpoints.save_every=null", f"output={tmp_path / 'run'}", "processes=2"]
    command = [sys.executable, "-m", "launch.cli", "train", *words]
    faulty = {**os.environ, "PDPC_FAULT": "loop.before_record:rank=0:nth=4:stop"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=faulty, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    metrics, deadline = tmp_path / "run" / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.exists() and '"step": 3,' in metrics.read_text()):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)  # rank 0 has stopped before its fourth record: the signal comes in the middle of a run
    ranks = [pid for pid in descendants(process.pid) if b"RANK=" in environment_of(pid)]
    process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    for pid in ranks:
        os.kill(pid, signal.SIGCONT)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 143, out
    assert "left on SIGTERM with a checkpoint of step" in out
    assert not [pid for pid in ranks if Path(f"/proc/{pid}").exists()]
    assert "step_00000004" <= newest_checkpoint(tmp_path / "run").name < "step_00000020"
    assert read_run(tmp_path / "run")["status"] == "running"


def environment_of(pid):
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


LEAVING = """
import os, sys
import torch
from train.distributed.world import free_port, leave, start
os.environ["DS_ACCELERATOR"] = "cpu"
import deepspeed
deepspeed.ops.__compatible_ops__
codes = []
for _ in range(int(sys.argv[1])):
    port, pids = free_port(), []
    for rank in range(2):
        pids.append(os.fork())
        if pids[-1] == 0:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_SIZE": 2, "MASTER_PORT": port}
            os.environ.update({key: str(value) for key, value in place.items()}, MASTER_ADDR="127.0.0.1")
            start(threads=1).all_sum(torch.ones(1000))
            leave(7)  # with gloo's threads as they are
    codes += [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
print(codes)
"""


def test_a_signal_before_the_ranks_have_started_leaves_quietly():
    program = (
        "import sys; from launch.train import supervise\n"
        "sys.exit(supervise([sys.executable, '-c', 'import time; print(1, flush=True); time.sleep(60)'], {}, 30.0))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as supervisor:
        assert supervisor.stdout.readline() == "1\n"  # what was started is there, and no rank of it
        supervisor.send_signal(signal.SIGINT)
        _, said = supervisor.communicate(timeout=30)
    assert supervisor.returncode == 130
    assert said == "SIGINT before the ranks had started: run the same command again\n"


def test_a_launcher_of_other_machines_ends_their_ranks_itself():
    launcher = (
        "import os, signal, sys, time\n"
        "def end(*_):\n    os.write(1, b'ranks ended\\n')\n    sys.exit(7)\n"
        "signal.signal(signal.SIGINT, end)\nos.write(1, b'1\\n')\ntime.sleep(60)"
    )
    command = [sys.executable, "-c", launcher]
    program = f"from launch.train import supervise; print(supervise({command!r}, {{}}, elsewhere=True))"
    with subprocess.Popen([sys.executable, "-c", program], text=True, stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout.readline() == "1\n"
        supervisor.send_signal(signal.SIGINT)
        said, _ = supervisor.communicate(timeout=30)
    assert said == "ranks ended\n7\n"


def test_a_rank_that_was_killed_is_named(capfd):
    ranks = (
        "import os, signal; from train.distributed import heartbeat\n"
        "for rank in (0, 1):\n    os.environ['RANK'] = str(rank); heartbeat.report_in()\n"
        "os.environ['RANK'] = '0'; heartbeat.report_code(1)"
    )
    assert supervise([sys.executable, "-c", ranks], os.environ, speaking=True) == 1
    assert capfd.readouterr().err == "rank 1 ended without a word, as by SIGKILL: run the same command again to go on\n"


def test_ranks_that_leave_are_not_aborted_by_threads_that_are_still_there():
    """A rank that ends as Python ends may be aborted (-6) by a thread of gloo, with or without its work done."""
    done = subprocess.run([sys.executable, "-c", LEAVING, "5"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == str([7] * 10), done.stderr
    assert "terminate called" not in done.stderr
