"""Event files, read back by a reader of our own that knows the format."""

import struct

from tests.torture.wandb_server import wait_for
from train import faults
from train.tracking import start_tracker
from train.tracking.settings import TrackerSettings
from train.tracking.tensorboard import _checksum


def fields(data):
    """Return a protocol buffer's fields as (number, value)."""
    found, at = [], 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at)
        elif kind == 2:
            length, at = varint(data, at)
            value, at = data[at : at + length], at + length
        else:
            width = {1: 8, 5: 4}[kind]
            value, at = struct.unpack("<d" if width == 8 else "<f", data[at : at + width])[0], at + width
        found.append((key >> 3, value))
    return found


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def events(path):
    """Return the events of a file, every checksum compared."""
    data, at, found = path.read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack_from("<Q", data, at)
        assert _checksum(data[at : at + 8]) == data[at + 8 : at + 12]
        body = data[at + 12 : at + 12 + length]
        assert _checksum(body) == data[at + 12 + length : at + 16 + length]
        found.append(dict(fields(body)))
        at += 16 + length
    return found


def test_the_checksum_is_tensorflows():
    # CRC-32C of "123456789" is 0xE3069283 (RFC 3720), masked as TFRecord does.
    crc = 0xE3069283
    assert _checksum(b"123456789") == struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def test_every_number_of_a_record_is_a_scalar_at_its_step(tmp_path):
    tracker = start_tracker(TrackerSettings(name="tensorboard"), tmp_path, "arm", {}, resume_step=299)
    tracker.log({"kind": "train", "step": 300, "tokens": 5000, "train/loss": 2.5, "bucket/low/loss": None, "x": "text"})
    tracker.log({"kind": "train", "step": 301, "tokens": 5010, "train/loss": None, "nonfinite": {"train/loss": "nan"}})
    tracker.finish()
    (path,) = (tmp_path / "tensorboard").glob("events.out.tfevents.*")
    version, start, first, second = events(path)
    assert version[3] == b"brain.Event:2"
    assert (start[2], dict(fields(start[7]))) == (300, {1: 1})  # readers drop what an earlier life showed from here on
    assert first[2] == 300
    scalars = {dict(fields(value))[1]: dict(fields(value))[2] for _, value in fields(first[5])}
    assert scalars == {b"train/loss": 2.5, b"trainer/tokens": 5000.0}
    values = [dict(fields(value)) for _, value in fields(second[5])]
    assert [str(value[2]) for value in values if value[1] == b"train/loss"] == ["nan"]


def test_a_failure_takes_back_nothing_of_what_was_sent(tmp_path):
    steps = (250, 300, 310, 320)  # the first: an evaluation that an earlier life left to this one
    faults.arm("tracker.log:nth=2:raise,tracker.log:nth=4:raise")
    try:
        tracker = start_tracker(TrackerSettings(name="tensorboard", retry_s=0.01), tmp_path, "arm", {}, resume_step=299)
        for step in steps:
            tracker.log({"kind": "train", "step": step, "tokens": 10 * step, "train/loss": 2.5})
        assert wait_for(lambda: tracker.parts[0].sent == len(steps), 10.0)
        tracker.finish()
    finally:
        faults.arm("")
    starts, shown = [], []
    for path in sorted((tmp_path / "tensorboard").glob("events.out.tfevents.*")):
        _, start, *records = events(path)
        starts.append(start[2])
        shown = [step for step in shown if step < start[2]] + [record[2] for record in records]
    assert starts == [300, 300, 311]
    assert shown == list(steps)
