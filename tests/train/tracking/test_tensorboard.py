"""Event files, read back by TensorBoard's own readers."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

from tests.torture.wandb_server import wait_for
from train import faults
from train.tracking import check_tracker, start_tracker, tracker
from train.tracking.settings import TrackerSettings


def scalars(run: Path, tag: str) -> dict[int, float]:
    """Return what TensorBoard shows of a tag: values by step."""
    shown = EventAccumulator(str(run / "tensorboard")).Reload()
    return {event.step: event.value for event in shown.Scalars(tag)}


def test_every_number_of_a_record_is_a_scalar_at_its_step(tmp_path):
    tracker = start_tracker(TrackerSettings(name="tensorboard"), tmp_path, "arm", {}, resume_step=299)
    tracker.log({"kind": "train", "step": 300, "tokens": 5000, "train/loss": 2.5, "bucket/low/loss": None, "x": "text"})
    tracker.log({"kind": "train", "step": 301, "tokens": 5010, "train/loss": None, "nonfinite": {"train/loss": "nan"}})
    tracker.finish()
    assert set(EventAccumulator(str(tmp_path / "tensorboard")).Reload().Tags()["scalars"]) == {
        "train/loss",
        "trainer/tokens",
    }
    assert scalars(tmp_path, "trainer/tokens") == {300: 5000.0, 301: 5010.0}
    loss = scalars(tmp_path, "train/loss")
    assert loss[300] == 2.5
    assert math.isnan(loss[301])


def test_a_resumed_run_shows_one_unbroken_curve(tmp_path):
    for resumed, steps in ((0, range(1, 8)), (4, range(5, 10))):  # the first attempt showed 5 to 7 and was cut off
        tracker = start_tracker(TrackerSettings(name="tensorboard"), tmp_path, "arm", {}, resume_step=resumed)
        for step in steps:
            tracker.log({"kind": "train", "step": step, "tokens": 10 * step, "train/loss": resumed + step / 4})
        tracker.finish()
    shown = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/loss")
    assert [(event.step, event.value) for event in shown] == [
        *((step, step / 4) for step in range(1, 5)),
        *((step, 4 + step / 4) for step in range(5, 10)),
    ]


def test_a_failure_takes_back_nothing_of_what_was_sent(tmp_path):
    steps = (250, 300, 310, 320)  # the first: an evaluation that an earlier attempt left to this one
    faults.arm("tracker.log:nth=2:raise,tracker.log:nth=4:raise")
    try:
        tracker = start_tracker(TrackerSettings(name="tensorboard", retry_s=0.01), tmp_path, "arm", {}, resume_step=299)
        for step in steps:
            tracker.log({"kind": "train", "step": step, "tokens": 10 * step, "train/loss": 2.5})
        assert wait_for(lambda: tracker.parts[0].sent == len(steps), 10.0)
        tracker.finish()
    finally:
        faults.arm("")
    starts = []
    for path in sorted((tmp_path / "tensorboard").glob("events.out.tfevents.*")):
        version, start, *_ = map(Event.FromString, RawEventFileLoader(str(path)).Load())
        assert version.file_version == "brain.Event:2"
        starts.append(start.step)
    assert starts == [300, 300, 311]
    assert list(scalars(tmp_path, "train/loss")) == list(steps)


def test_an_event_is_in_the_file_before_the_next_record(tmp_path):
    tracker = start_tracker(TrackerSettings(name="tensorboard"), tmp_path, "arm", {})
    tracker.log({"kind": "train", "step": 1, "tokens": 10, "train/loss": 2.5})
    assert wait_for(lambda: tracker.parts[0].sent == 1, 10.0)
    assert scalars(tmp_path, "train/loss") == {1: 2.5}
    tracker.finish()


def test_writing_needs_neither_tensorflow_nor_torch():
    code = "import sys, train.tracking.tensorboard; print({'tensorflow', 'torch', 'grpc'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("name", ["tensorboard", "wandb+tensorboard"])
def test_a_missing_package_is_refused_before_training(name, monkeypatch):
    monkeypatch.setattr(tracker, "find_spec", lambda package: None)
    with pytest.raises(
        ValueError, match=rf"tracker.name='{name.replace('+', '[+]')}' .* pip install 'pdpc\[tensorboard\]'"
    ):
        check_tracker(TrackerSettings(name=name))
    check_tracker(TrackerSettings(name="wandb"))
