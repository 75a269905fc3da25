"""Standard streams of a program whose work matters more than its output: writing to them never fails.

A reader that has gone, a full disk behind a redirection, a stream that was closed from the start and a terminal that
cannot show a character cost output, never the work. What is printed speaks to no terminal (`printable_output`).
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any

from curriculum.work.printable import printable_output


class Descriptor(io.FileIO):
    """A file descriptor to write to; what it cannot take is dropped."""

    failure: str | None = None
    """Why output was dropped; None if none was."""

    def write(self, data: Any, /) -> int:
        """Write data; return its size, also if it was dropped."""
        try:
            while (written := super().write(data)) is None:  # a non-blocking terminal is busy
                select.select([], [self], [])
            return written
        except OSError as error:
            self.failure = self.failure or (error.strerror or str(error))
            return len(data)


class Stream(io.TextIOWrapper):
    """A text stream on a Descriptor; characters that its encoding lacks, or that are unsafe, are written as escapes."""

    def __init__(self, descriptor: Descriptor, encoding: str | None, unbuffered: bool) -> None:
        on_terminal = descriptor.isatty()
        super().__init__(
            io.BufferedWriter(descriptor),
            encoding,
            "backslashreplace",
            line_buffering=on_terminal or descriptor.fileno() == 2,
            write_through=unbuffered,
        )
        self.descriptor = descriptor
        self._styled = on_terminal or bool(os.environ.get("FORCE_COLOR"))

    def write(self, text: str, /) -> int:
        """Write text."""
        super().write(printable_output(text, styled=self._styled))
        return len(text)


def open_streams() -> None:
    """Replace this process's standard output and error; to be called first, by a program.

    Descriptors that are closed are opened on the null device: the next file that is opened would take their numbers,
    and a child's output would go into it.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which is this one
            os.set_inheritable(null, True)
    sys.stdout, sys.stderr = (_opened(old, number) for number, old in ((1, sys.stdout), (2, sys.stderr)))


def lost_output() -> str | None:
    """Return why some of the standard output was lost, in words; None if all of it was written."""
    stream = sys.stdout
    if not isinstance(stream, Stream):
        return None
    stream.flush()
    return stream.descriptor.failure


def _opened(old: Any, number: int) -> Stream:
    descriptor = Descriptor(number, "w", closefd=False)
    if old is None:
        descriptor.failure = "it was closed"
        return Stream(descriptor, None, False)
    old.flush()
    return Stream(descriptor, old.encoding, old.write_through)
