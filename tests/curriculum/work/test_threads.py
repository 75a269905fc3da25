import threading
import time

import pytest

from curriculum.work.threads import mapped, prefetched


def failing(at):
    for number in range(10):
        if number == at:
            raise OSError("no more")
        yield number


def test_prefetched_items_come_in_their_order_and_no_thread_stays():
    assert list(prefetched(iter(range(50)))) == list(range(50))
    assert list(prefetched(iter([]))) == []
    assert list(prefetched(iter([None, 0, None]))) == [None, 0, None]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_an_exception_of_the_maker_is_raised_in_its_place():
    got = []
    with pytest.raises(OSError, match="no more"):
        got.extend(prefetched(failing(3)))
    assert got == [0, 1, 2]


def test_a_consumer_that_stops_stops_the_maker():
    made = []
    items = prefetched(made.append(number) or number for number in range(10_000))
    assert next(items) == 0
    items.close()
    assert len(made) <= 2
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_the_next_item_is_fetched_while_one_is_in_use():
    fetched = threading.Event()

    def items():
        yield 0
        fetched.set()
        yield 1

    for item in prefetched(items()):
        assert fetched.wait(10.0), item


def test_mapped_keeps_the_order_whatever_takes_longest():
    def work(number):
        time.sleep(0.002 * (number % 3))
        return number * number

    assert list(mapped(work, range(30), 4)) == [number * number for number in range(30)]


def test_mapped_raises_what_the_work_raises():
    with pytest.raises(ZeroDivisionError):
        list(mapped(lambda number: 1 // number, [2, 1, 0, 1], 2))
