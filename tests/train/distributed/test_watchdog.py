"""The watchdog of one process: what is late, what is not, and the files it leaves."""

import signal
import time

import pytest

from train.distributed import watchdog
from train.distributed.watchdog import end_processes


def watch(body, folder, slow_timeout_s, timeout_s=0.5):
    """Run `body` under a watchdog; it is compiled as a program, so that stacks show it as `<module>`."""
    import logging
    from pathlib import Path

    import torch

    from train.distributed.signals import Signals
    from train.distributed.watchdog import Watchdog
    from train.distributed.world import World

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    signals = Signals(60.0)
    signals.install()
    dog = Watchdog(Path(folder), World(0, 1, 0, 1, torch.device("cpu")), timeout_s, slow_timeout_s)
    dog.start()
    exec(compile(f"import os, threading, time\n{body}", "body", "exec"), {"dog": dog, "signals": signals})
    dog.close()


@pytest.fixture
def watched(forks, tmp_path, tmp_path_factory):
    """Return a function that starts a rank with a body under a watchdog, which writes its files to `tmp_path`."""
    log = tmp_path_factory.mktemp("watched") / "log"

    def start(body, slow_timeout_s=2.5, **more):
        arguments = {"body": body, "folder": str(tmp_path), "slow_timeout_s": slow_timeout_s, **more}
        return forks.start(f"{__name__}:watch", arguments, 1, log)

    return start


def test_a_rank_that_makes_progress_is_not_disturbed_and_leaves_no_file(watched, tmp_path):
    """The watchdog's clock advances only where the body says so, and each time until the watchdog has read it."""
    body = """
from train.distributed import watchdog
now, read = [time.monotonic()], []
class Clock:
    sleep = time.sleep
    def monotonic():
        read.append(now[0])
        return now[0]
watchdog.time = Clock
def passes(seconds):
    for _ in range(round(seconds / 0.1)):
        now[0] += 0.1
        while read[-2:] != [now[0]] * 2:
            time.sleep(0.005)
passes(0.9)  # the start may take long
for step in range(8):
    dog.beat(f"step {step}")
    passes(0.1)
with dog.slow("an evaluation"):
    for task in range(2):  # each has its own time, and what comes after it
        with dog.slow(f"task {task}"):
            passes(0.7)
        passes(0.7)
passes(0.1)
"""
    rank = watched(body)
    assert rank.wait(60) == [0], rank.told()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "where", "stack"),
    [
        ("dog.beat('step 3')\nwhile True: time.sleep(1)", "step 3", "<module>"),
        (
            "dog.beat('step 1')\nthreading.Lock().acquire() and threading.Event().wait()",
            "step 1",
            "wait",
        ),
        ("with dog.slow('the checkpoint of step 4'):\n    time.sleep(60)", "the checkpoint of step 4", "<module>"),
    ],
)
def test_a_rank_without_progress_is_ended_with_its_stacks(watched, tmp_path, body, where, stack):
    rank = watched(body)
    assert rank.wait(60) == [79], rank.told()
    assert f"rank 0 hangs: at {where} for more than" in rank.told()
    dumped = (tmp_path / "stacks" / "rank_00000.txt").read_text()
    assert f"rank 0: {where}" in dumped
    assert "most recent call first" in dumped
    assert stack in dumped


@pytest.mark.parametrize(
    ("body", "code"), [("signals.at_hang = dog.dump", 79), ("signals.at_hang = threading.Event().wait", -6)]
)
def test_a_stopped_process_is_ended_with_its_stacks_though_its_threads_may_not_run(
    watched, tmp_path, monkeypatch, body, code
):
    monkeypatch.setattr(watchdog, "PATIENCE_S", 8.0)  # leaves 2.4 s for the abort, enough on a loaded machine too
    rank = watched(f"{body}\nprint('ready', flush=True)\ntime.sleep(60)", slow_timeout_s=60.0)
    rank.wait_for("ready")
    rank.kill(signal.SIGSTOP)
    end_processes(rank.pids)
    assert rank.wait(60) == [code]
    assert "most recent call first" in (tmp_path / "stacks" / "rank_00000.txt").read_text()


def test_a_process_that_was_stopped_as_a_whole_and_continued_is_not_late(watched, tmp_path):
    over = tmp_path / "over"
    body = f"""
print("ready", flush=True)
while not os.path.exists({str(over)!r}):
    dog.beat("a step")
    time.sleep(0.1)
"""
    rank = watched(body, timeout_s=1.5)
    rank.wait_for("ready")
    rank.kill(signal.SIGSTOP)
    time.sleep(2.0)
    rank.kill(signal.SIGCONT)
    over.touch()
    assert rank.wait(60) == [0], rank.told()
