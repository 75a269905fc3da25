"""TensorBoard: event files, written here; reading them is TensorBoard's business and needs its package.

An event file is a sequence of records (TensorFlow's TFRecord: length, checksum, data, checksum), each an `Event` of
tensorboard/compat/proto/event.proto: wall_time = 1, step = 2, file_version = 3, summary = 5, session_log = 7.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from pathlib import Path
from typing import IO

from train.tracking.metrics import NONFINITE, Record

FOLDER = "tensorboard"
"""Folder of the event files in a RUN."""
VARINT, DOUBLE, BYTES, FLOAT = 0, 1, 2, 5
"""Wire types of protocol buffers."""


class EventFile:
    """One event file a life of a run, in RUN/tensorboard, and another after each failure; a destination of records."""

    title = "TensorBoard"

    def __init__(self, folder: Path, resume_step: int) -> None:
        self.folder = folder / FOLDER
        self._shown = resume_step
        """The last step of which readers are to keep what is shown, by an earlier life or by this one."""
        self._file: IO[bytes] | None = None

    def connect(self) -> None:
        """Open a new file; tell readers to forget what was shown beyond the step resumed from, or sent since then."""
        self.folder.mkdir(exist_ok=True)
        stamp = f"{time.time():.6f}.{socket.gethostname()}.{os.getpid()}"
        self._file = open(self.folder / f"events.out.tfevents.{stamp}", "xb")  # noqa: SIM115  # held until finish()
        self._write(_field(3, BYTES, b"brain.Event:2"))
        started = _field(1, VARINT, 1)  # SessionLog.status = START
        self._write(_field(2, VARINT, self._shown + 1) + _field(7, BYTES, started))

    def send(self, record: Record) -> None:
        """Write a record's numbers as scalars at its step, and the tokens as one of them."""
        numbers = {key: value for key, value in record.items() if isinstance(value, int | float)}
        numbers |= {key: float(value) for key, value in record.get(NONFINITE, {}).items()}
        numbers["trainer/tokens"] = numbers.pop("tokens")
        step = int(numbers.pop("step"))
        summary = b"".join(
            _field(1, BYTES, _field(1, BYTES, key.encode()) + _field(2, FLOAT, float(value)))
            for key, value in numbers.items()
        )
        self._write(_field(2, VARINT, step) + _field(5, BYTES, summary))
        self._shown = max(self._shown, step)

    def finish(self) -> None:
        """Close the file."""
        assert self._file is not None
        self._file.close()

    def _write(self, fields: bytes) -> None:
        assert self._file is not None
        data = _field(1, DOUBLE, time.time()) + fields
        length = struct.pack("<Q", len(data))
        self._file.write(length + _checksum(length) + data + _checksum(data))
        self._file.flush()


def _field(number: int, kind: int, value: float | bytes) -> bytes:
    """Return a field of a protocol buffer: its tag and its value."""
    tag = _varint(number << 3 | kind)
    if isinstance(value, bytes):
        return tag + _varint(len(value)) + value
    if kind == VARINT:
        return tag + _varint(int(value))
    return tag + struct.pack("<d" if kind == DOUBLE else "<f", value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC32C = _table()


def _checksum(data: bytes) -> bytes:
    """Return the masked CRC-32C that TFRecord asks for, four bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ CRC32C[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
