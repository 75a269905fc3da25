"""Signals to one process: which wait for a step, which exit at once, and the end of the grace period."""

import os
import signal
import time
from types import SimpleNamespace

import pytest
import torch

from train.distributed import signals
from train.distributed.exit_codes import HUNG
from train.distributed.signals import ASKING, HANG, Left, Signals
from train.distributed.world import World

ALONE = World(0, 1, 0, 1, torch.device("cpu"))


@pytest.fixture
def taken():
    """Signals of this process, with the codes it would have exited with; handlers are restored afterwards."""
    made = []

    def take(grace_s=60.0):
        codes = []
        one = Signals(grace_s, codes.append)
        one.install()
        made.append(one)
        return one, codes

    yield take
    for one in made:
        one.close()


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize("number", ASKING)
def test_a_signal_waits_for_the_end_of_the_step(taken, number):
    one, codes = taken()
    with one.holding():
        one.ask(ALONE)
        assert one.answer() == 0
        os.kill(os.getpid(), number)
        until(lambda: one.number)
        one.ask(ALONE)
        assert one.answer() == number
    assert codes == []
    assert Left(number, 7).exit_code == 128 + number


def test_a_signal_takes_effect_at_once_where_nothing_is_to_be_saved(taken):
    one, codes = taken()
    os.kill(os.getpid(), signal.SIGTERM)
    until(lambda: codes)
    assert codes == [143]
    assert one.number == signal.SIGTERM


def test_at_leave_is_called_before_a_rank_exits_on_a_signal(taken):
    one, codes = taken()
    told = []

    def tell():
        told.append(list(codes))
        raise OSError("no space left")

    one.at_leave = tell
    os.kill(os.getpid(), signal.SIGTERM)
    until(lambda: codes)
    assert (told, codes) == ([[]], [143])


def test_a_waiting_signal_takes_effect_when_the_evaluation_starts(taken):
    one, codes = taken()
    with one.holding():
        os.kill(os.getpid(), signal.SIGUSR1)
        until(lambda: one.number)
        assert codes == []
        with one.holding(False):
            assert codes == [138]


def test_a_second_signal_takes_effect_at_once_but_not_the_echo_of_the_first(taken, monkeypatch):
    now, read = [0.0], []

    def clock():
        read.append(now[0])
        return now[0]

    monkeypatch.setattr(signals, "time", SimpleNamespace(monotonic=clock, sleep=time.sleep))
    one, codes = taken()
    with one.holding():
        for count, (number, when_s) in enumerate([(signal.SIGINT, 0.0), (signal.SIGTERM, 0.9), (signal.SIGTERM, 1.1)]):
            assert codes == []  # SIGTERM within a second is a launcher's answer to the same key
            now[0] = when_s
            os.kill(os.getpid(), number)
            until(lambda count=count: len(read) > 2 * count)  # read when a signal is taken, and to wait for the next
        until(lambda: codes)
    assert codes == [143]


def test_when_the_grace_period_is_over_the_rank_exits(taken, caplog):
    one, codes = taken(grace_s=0.2)
    with one.holding():
        began = time.monotonic()
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: codes)
    assert 0.15 < time.monotonic() - began < 5
    assert codes == [143]
    assert "no checkpoint was written" in caplog.text


def test_when_the_run_is_complete_neither_a_signal_nor_the_grace_period_ends_it(taken):
    one, codes = taken(grace_s=0.1)
    with one.holding():
        os.kill(os.getpid(), signal.SIGTERM)
        until(lambda: one.number)
        one.over = True
    until(lambda: not one.number)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.2)
    assert codes == []


def test_a_rank_that_is_notified_of_a_hang_exits_with_its_code(taken):
    one, codes = taken()
    with one.holding():
        os.kill(os.getpid(), HANG)
        until(lambda: codes)
    assert codes == [HUNG]


def test_the_handlers_are_restored():
    before = {number: signal.getsignal(number) for number in (*ASKING, HANG)}
    one = Signals(60.0, lambda code: None)
    one.install()
    assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
    one.close()
    assert {number: signal.getsignal(number) for number in before} == before
