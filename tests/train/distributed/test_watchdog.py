"""The watchdog of one process: what is late, what is not, and what it leaves."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from train.distributed.watchdog import end_processes

ROOT = Path(__file__).parents[3]

PROGRAM = """
import logging, os, sys, time
from pathlib import Path
import torch
from train.distributed.signals import Signals
from train.distributed.watchdog import Watchdog
from train.distributed.world import World
logging.basicConfig(level=logging.INFO, format="%(message)s")
signals = Signals(60.0)
signals.install()
dog = Watchdog(Path(sys.argv[1]), World(0, 1, 0, 1, torch.device("cpu")), 0.5, 2.5)
dog.start()
{body}
dog.close()
"""


def watched(tmp_path, body, **kwargs):
    words = [sys.executable, "-c", PROGRAM.format(body=body), str(tmp_path)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs)


def test_a_rank_that_gets_on_is_left_alone_and_leaves_no_file(tmp_path):
    body = """
time.sleep(0.9)  # the start may take long
for step in range(8):
    dog.beat(f"step {step}")
    time.sleep(0.1)
with dog.slow("an evaluation"):
    for task in range(2):  # each has its own time, and what comes after it
        with dog.slow(f"task {task}"):
            time.sleep(0.7)
        time.sleep(0.7)
time.sleep(0.1)
"""
    process = watched(tmp_path, body)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "where", "stack"),
    [
        ("dog.beat('step 3')\nwhile True: time.sleep(1)", "step 3", "<module>"),
        (
            "dog.beat('step 1')\nimport threading\nthreading.Lock().acquire() and threading.Event().wait()",
            "step 1",
            "wait",
        ),
        ("with dog.slow('the checkpoint of step 4'):\n    time.sleep(60)", "the checkpoint of step 4", "<module>"),
    ],
)
def test_a_rank_that_does_not_is_ended_with_its_stacks(tmp_path, body, where, stack):
    process = watched(tmp_path, body)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 79, out
    assert f"rank 0 hangs: at {where} for more than" in out
    dumped = (tmp_path / "stacks" / "rank_00000.txt").read_text()
    assert f"rank 0: {where}" in dumped
    assert "most recent call first" in dumped
    assert stack in dumped


@pytest.mark.parametrize(
    ("body", "code"), [("signals.at_hang = dog.dump", 79), ("signals.at_hang = threading.Event().wait", -6)]
)
def test_a_stopped_process_is_ended_with_its_stacks_though_its_threads_may_not_run(tmp_path, body, code):
    process = watched(tmp_path, f"import threading\n{body}\nprint('ready', flush=True)\ntime.sleep(60)")
    while "ready" not in process.stdout.readline():
        assert process.poll() is None
    os.kill(process.pid, signal.SIGSTOP)
    end_processes([process.pid])
    process.communicate(timeout=60)
    assert process.returncode == code
    assert "most recent call first" in (tmp_path / "stacks" / "rank_00000.txt").read_text()


def test_a_process_that_was_stopped_as_a_whole_and_goes_on_is_not_late(tmp_path):
    body = """
print("ready", flush=True)
for step in range(15):
    dog.beat(f"step {step}")
    time.sleep(0.1)
"""
    process = watched(tmp_path, body)
    while "ready" not in process.stdout.readline():
        assert process.poll() is None
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(1.2)
    os.kill(process.pid, signal.SIGCONT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0, out
