import os
import threading
import time

import pytest

from curriculum.work.threads import cores, mapped, prefetched, threads_each

V1 = "cpu,cpuacct/job"


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


def test_there_is_a_core():
    assert cores() >= 1


@pytest.mark.parametrize(
    ("line", "files", "number"),
    [
        ("0::/a/b", {"a/cpu.max": "250000 100000\n", "a/b/cpu.max": "max 100000\n"}, 2),
        ("0::/a/b", {"a/b/cpu.max": "50000 100000\n"}, 1),
        ("3:cpu,cpuacct:/job", {f"{V1}/cpu.cfs_quota_us": "300000", f"{V1}/cpu.cfs_period_us": "100000"}, 3),
        ("3:cpu,cpuacct:/job", {f"{V1}/cpu.cfs_quota_us": "-1", f"{V1}/cpu.cfs_period_us": "100000"}, 8),
        ("4:memory:/job", {"memory/job/cpu.max": "100000 100000"}, 8),
    ],
)
def test_cores_are_those_that_affinity_and_control_groups_grant(tmp_path, monkeypatch, line, files, number):
    for name, text in {
        "proc/self/cgroup": line,
        **{f"sys/fs/cgroup/{name}": text for name, text in files.items()},
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert cores(tmp_path) == number


@pytest.mark.parametrize(
    ("asked", "chosen", "number"), [(None, None, 2), (5, None, 5), (None, "3", 3), (5, "3", 5), (None, "4,2", 4)]
)
def test_threads_are_those_asked_for_then_openmps_then_a_share(monkeypatch, asked, chosen, number):
    monkeypatch.setattr("curriculum.work.threads.cores", lambda: 6)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if chosen is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", chosen)
    assert threads_each(3, asked) == number
    if chosen is None and asked is None:
        for text in ("", "0", "many"):
            monkeypatch.setenv("OMP_NUM_THREADS", text)
            assert threads_each(9, asked) == 1
