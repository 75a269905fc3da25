"""Progress of a long pass over data: a bar on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from curriculum.work.console import say
from curriculum.work.printable import printable

LINE_EVERY_S = 10.0
REFRESH_EVERY_S = 0.2


class Meter(ABC):
    """Shows the progress of a pass: `fraction` is the share that is done, if known; `amount` describes it in words."""

    line_every_s = LINE_EVERY_S
    """Time between two lines where there is no terminal."""

    def __init__(self, console: Console, label: str, fraction: Callable[[], float | None]) -> None:
        self._console, self._label, self._fraction = console, label, fraction
        self._started = self._shown = time.monotonic()
        self._bar: Progress | None = None

    add: Callable[..., None]
    """Count finished work, and show it if it is time to."""

    def count(self, counted: Sequence[int]) -> None:
        """Count finished work, one number for each argument of `add`."""
        self.add(*counted)

    @abstractmethod
    def amount(self, seconds: float) -> str:
        """Return what has been done in `seconds`, and how fast."""

    def __enter__(self) -> Self:
        self._started = self._shown = time.monotonic()
        if self._console.is_terminal:
            columns = (
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TaskProgressColumn(),
                TimeRemainingColumn(),
            )
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task(printable(self._label), total=None)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._show()
            self._bar.stop()
        elif kind is None:
            say(self._console, self._line())

    def tick(self) -> None:
        """Show the progress if it is time to."""
        now = time.monotonic()
        if now - self._shown >= (self.line_every_s if self._bar is None else REFRESH_EVERY_S):
            self._shown = now
            self._show()

    def _show(self) -> None:
        if self._bar is None:
            say(self._console, self._line())
            return
        fraction = self._fraction()
        self._bar.update(self._task, description=printable(self._line()), total=None if fraction is None else 1.0)
        self._bar.update(self._task, completed=fraction or 0.0)

    def _line(self) -> str:
        fraction = self._fraction()
        share = "" if fraction is None or self._bar is not None else f" {fraction:4.0%},"
        return f"{self._label}:{share} {self.amount(max(time.monotonic() - self._started, 1e-9))}"


class TextProgress(Meter):
    """Counts documents and text."""

    def __init__(self, console: Console, label: str, fraction: Callable[[], float | None]) -> None:
        super().__init__(console, label, fraction)
        self._documents = self._bytes = 0

    def add(self, documents: int, text_bytes: int) -> None:
        """Count finished work, and show it if it is time to."""
        self._documents += documents
        self._bytes += text_bytes
        self.tick()

    def amount(self, seconds: float) -> str:
        """Return documents, text and MB/s."""
        size = self._bytes / 1e6
        return f"{self._documents:,} documents, {size:,.1f} MB of text, {size / seconds:.1f} MB/s"


class ChunkProgress(TextProgress):
    """Counts documents, text and the places of an input, out of a known number of places."""

    def __init__(self, console: Console, label: str, total: int) -> None:
        super().__init__(console, label, lambda: self._places / total if total else 1.0)
        self._places = 0

    def add(self, documents: int, text_bytes: int, places: int) -> None:  # type: ignore[override]
        """Count finished work, and show it if it is time to."""
        self._places += places
        super().add(documents, text_bytes)


class TokenProgress(Meter):
    """Counts tokens, out of a known number of tokens."""

    def __init__(self, console: Console, label: str, total: int) -> None:
        super().__init__(console, label, lambda: self._tokens / total if total else 1.0)
        self._tokens = 0

    def add(self, tokens: int) -> None:
        """Count finished work, and show it if it is time to."""
        self._tokens += tokens
        self.tick()

    def amount(self, seconds: float) -> str:
        """Return tokens and tokens/s."""
        return f"{self._tokens:,} tokens, {self._tokens / seconds:,.0f} tok/s"


class SampleProgress(Meter):
    """Counts samples and their tokens, out of a known number of samples."""

    def __init__(self, console: Console, label: str, total: int) -> None:
        super().__init__(console, label, lambda: self._samples / total if total else 1.0)
        self._samples = self._tokens = 0

    def add(self, samples: int, tokens: int) -> None:
        """Count finished work, and show it if it is time to."""
        self._samples += samples
        self._tokens += tokens
        self.tick()

    def amount(self, seconds: float) -> str:
        """Return samples, tokens and tokens/s."""
        return f"{self._samples:,} samples, {self._tokens:,} tokens, {self._tokens / seconds:,.0f} tok/s"


class ScoreProgress(SampleProgress):
    """Counts scored samples, and shows the time left and the share of the forward roof that is reached."""

    def __init__(self, console: Console, label: str, total: int, roof: float | None = None) -> None:
        super().__init__(console, label, total)
        self._total = total
        self.roof = roof
        """Tokens/s if the forward passes were nothing but their matrix multiplications; None if unknown."""

    def amount(self, seconds: float) -> str:
        """Return samples, tokens, tokens/s, the share of the roof and the time left."""
        text = super().amount(seconds)
        if self.roof:
            text += f", {self._tokens / seconds / self.roof:.0%} of the forward roof"
        if 0 < self._samples < self._total:
            left = seconds * (self._total - self._samples) / self._samples
            text += f", {duration(left)} left"
        return text


def duration(seconds: float) -> str:
    """Return a time in hours and minutes, minutes and seconds, or seconds."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
