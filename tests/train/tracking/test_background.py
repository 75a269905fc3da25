"""The queue and its thread: logging never waits, failures are retried, dropped records are counted."""

import threading
import time

import pytest

from tests.torture.wandb_server import wait_for
from train import faults
from train.tracking.background import Background, Trackers, error_line
from train.tracking.settings import TrackerSettings
from train.tracking.tracker import NullTracker, start_tracker, without_keys


class Place:
    title = "place"

    def __init__(self, *, fail_connects=0, fail_sends=0, hold=None):
        self.fail_connects, self.fail_sends, self.hold = fail_connects, fail_sends, hold
        self.got, self.connects, self.finished = [], 0, False

    def connect(self):
        self.connects += 1
        if self.hold is not None:
            self.hold.wait()
        if self.connects <= self.fail_connects:
            raise ConnectionError("no route")

    def send(self, record):
        if self.fail_sends:
            self.fail_sends -= 1
            raise SystemExit("the library left")
        self.got.append(record["step"])

    def finish(self):
        self.finished = True


def log_all(tracker, count):
    for step in range(count):
        tracker.log({"step": step})


def test_every_record_arrives_in_order_and_nothing_is_logged(caplog):
    place = Place()
    tracker = Background(place, 100, 0.01)
    log_all(tracker, 50)
    tracker.finish(5.0)
    assert place.got == list(range(50))
    assert place.finished
    assert not caplog.records


def test_a_failing_destination_is_retried_and_reported_once(caplog):
    place = Place(fail_connects=3, fail_sends=2)
    tracker = Background(place, 100, 0.01)
    log_all(tracker, 20)
    assert wait_for(lambda: len(place.got) == 20, 10.0)
    tracker.finish(5.0)
    assert place.got == list(range(20))
    assert place.connects == 6
    assert [record.message for record in caplog.records] == [
        "cannot reach place (ConnectionError: no route): training continues, metrics.jsonl has all records; will retry"
    ]


def test_a_full_queue_drops_and_counts_without_waiting(caplog):
    hold = threading.Event()
    tracker = Background(Place(hold=hold), 5, 0.01)
    log_all(tracker, 1000)  # waiting would take forever
    assert tracker.dropped == 995
    tracker.finish(0.1)
    hold.set()
    assert "0 records sent, 5 still queued, 995 dropped, not closed within 0.1 s; metrics.jsonl" in caplog.text


def test_an_unreachable_destination_does_not_delay_the_end(caplog):
    place = Place(fail_connects=10**6)
    tracker = Background(place, 100, 60.0)
    log_all(tracker, 3)
    assert wait_for(lambda: place.connects == 1, 5.0)
    began = time.perf_counter()
    tracker.finish(30.0)
    assert time.perf_counter() - began < 25.0
    assert "0 records sent, 3 still queued, 0 dropped" in caplog.text


def test_two_destinations_do_not_wait_for_each_other(caplog):
    hold, good = threading.Event(), Place()
    trackers = Trackers([Background(Place(hold=hold), 5, 0.01), Background(good, 100, 0.01)], 0.3)
    log_all(trackers, 30)
    assert wait_for(lambda: len(good.got) == 30, 5.0)
    trackers.finish()  # waiting would take forever
    assert wait_for(lambda: good.finished, 5.0)
    hold.set()


@pytest.mark.parametrize("point", ["tracker.start", "tracker.log", "tracker.finish"])
def test_faults_strike_in_the_thread(point, caplog):
    faults.arm(f"{point}:raise")
    try:
        place = Place()
        tracker = Background(place, 10, 0.01)
        log_all(tracker, 3)
        assert wait_for(lambda: len(place.got) == 3, 5.0)
        tracker.finish(5.0)
    finally:
        faults.arm("")
    assert f"RuntimeError: fault {point}" in caplog.text


def test_the_key_is_masked_in_messages_and_configs(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "canary123")
    assert error_line(ValueError("bad key\ncanary123 !")) == "ValueError: bad key *** !"
    config = {"a": {"b": ["x canary123"]}, "c": 3, "d": "canary123"}
    assert without_keys(config) == {"a": {"b": ["x ***"]}, "c": 3, "d": "***"}


def test_settings_select_the_tracker(tmp_path):
    assert isinstance(start_tracker(TrackerSettings(), tmp_path, "a", {}), NullTracker)
    tracker = start_tracker(TrackerSettings(name="tensorboard"), tmp_path, "a", {})
    tracker.finish()
    assert [part.destination.title for part in tracker.parts] == ["TensorBoard"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": "pigeon"}, "tracker.name='pigeon' is unknown: use one of"),
        ({"queue": 0}, "tracker.queue=0 must be at least 1"),
        ({"start_s": 0.0}, "tracker.start_s=0.0 must be above 0 seconds"),
        ({"finish_s": -1.0}, "tracker.finish_s=-1.0 must not be negative"),
    ],
)
def test_invalid_settings_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        TrackerSettings(**changes)
