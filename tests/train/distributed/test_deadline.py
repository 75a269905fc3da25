"""A deadline strikes in sleeps and loops, never inside `held`, and restores the process afterwards."""

from __future__ import annotations

import signal
import threading
import time

import pytest
import torch

from train.distributed import deadline
from train.distributed.collectives import Collectives, RankFailed
from train.distributed.deadline import Deadline, TooLate
from train.distributed.world import World

ALONE = World(0, 1, 0, 1, torch.device("cpu"))


def endless() -> None:
    while True:
        pass


@pytest.mark.parametrize("work", [lambda: time.sleep(60), endless, lambda: threading.Event().wait(60)])
def test_work_that_takes_too_long_is_ended(work) -> None:
    before = signal.getsignal(deadline.SIGNAL)
    began = time.monotonic()
    with pytest.raises(TooLate, match=r"not done after 0\.1 s"), Deadline().within(0.1):
        work()
    assert time.monotonic() - began < 30
    assert signal.getsignal(deadline.SIGNAL) is before
    assert not [thread for thread in threading.enumerate() if thread.name == "deadline"]


def test_code_that_catches_every_exception_is_ended(monkeypatch) -> None:
    monkeypatch.setattr(deadline, "AGAIN_S", 0.05)
    caught = []

    def work() -> None:
        while len(caught) < 2:
            try:
                time.sleep(60)
            except Exception:
                caught.append("hidden")
            except BaseException:  # as a bare except does
                caught.append("base")
        time.sleep(60)

    with pytest.raises(TooLate), Deadline().within(0.1):
        work()
    assert caught == ["base", "base"]


@pytest.fixture
def rung(monkeypatch) -> threading.Semaphore:
    """Return a semaphore that is released whenever a deadline has sent its signal; it does so every 10 ms."""
    sent = threading.Semaphore(0)

    def send(thread: int, number: int, kill=signal.pthread_kill) -> None:
        kill(thread, number)
        sent.release()

    monkeypatch.setattr(deadline, "AGAIN_S", 0.01)
    monkeypatch.setattr(signal, "pthread_kill", send)
    return sent


def test_a_held_part_runs_to_its_end(rung) -> None:
    limit, seen = Deadline(), []

    def work() -> None:
        with limit.held():
            with limit.held():
                rung.acquire()
            seen.append("inner")
        seen.append("outer")

    with pytest.raises(TooLate), limit.within(0.05):
        work()
    assert seen == ["inner"]


def test_an_error_in_a_held_part_wins_and_a_failure_of_all_ranks_lifts_the_deadline(rung) -> None:
    exchange = Collectives(ALONE)

    def work() -> None:
        try:
            with exchange.deadline.held():
                rung.acquire()
                exchange.gather("step", error="no memory")
        finally:
            for _ in range(3):
                rung.acquire()  # nothing is raised twice

    with pytest.raises(RankFailed, match="no memory"), exchange.deadline.within(0.05):
        work()


def test_work_in_time_is_not_disturbed_also_afterwards() -> None:
    limit, before = Deadline(), signal.getsignal(deadline.SIGNAL)
    for _ in range(2):
        with limit.within(60), limit.held():
            pass
        assert not [thread for thread in threading.enumerate() if thread.name == "deadline"]
        assert signal.getsignal(deadline.SIGNAL) is before


def test_another_thread_has_no_deadline() -> None:
    ended = []

    def work() -> None:
        with Deadline().within(0.01):
            time.sleep(0.1)
        ended.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert ended == [True]


@pytest.mark.parametrize("error", [ValueError("bad"), SystemExit(0), TooLate("late")])
def test_any_error_in_the_work_is_a_failure_of_all_ranks(error) -> None:
    def work() -> None:
        raise error

    with pytest.raises(RankFailed, match=f"{type(error).__name__}: {error}"):
        Collectives(ALONE).run("work", work)
    assert Collectives(ALONE).run("work", lambda: 3) == 3
