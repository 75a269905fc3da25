"""Progress of a long pass over text: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

LINE_EVERY_S = 10.0
REFRESH_EVERY_S = 0.2


class TextProgress:
    """Counts documents and text; `fraction` tells the share of the input that has been read, if it is known."""

    def __init__(self, console: Console, label: str, fraction: Callable[[], float | None]) -> None:
        self._console, self._label, self._fraction = console, label, fraction
        self._documents = self._bytes = 0
        self._started = self._shown = time.monotonic()
        self._bar: Progress | None = None

    def __enter__(self) -> TextProgress:
        self._started = self._shown = time.monotonic()
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, console=self._console)
            self._task = self._bar.add_task(self._label, total=None)
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._show()
            self._bar.stop()
        elif kind is None:
            self._console.print(self._line(), highlight=False, soft_wrap=True)

    def add(self, documents: int, text_bytes: int) -> None:
        """Count what was done, and show it if it is time to."""
        self._documents += documents
        self._bytes += text_bytes
        now = time.monotonic()
        if now - self._shown >= (LINE_EVERY_S if self._bar is None else REFRESH_EVERY_S):
            self._shown = now
            self._show()

    def _show(self) -> None:
        if self._bar is None:
            self._console.print(self._line(), highlight=False, soft_wrap=True)
            return
        fraction = self._fraction()
        self._bar.update(self._task, description=self._line(), total=None if fraction is None else 1.0)
        self._bar.update(self._task, completed=fraction or 0.0)

    def _line(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        fraction = self._fraction()
        share = "" if fraction is None or self._bar is not None else f" {fraction:4.0%},"
        size = self._bytes / 1e6
        return f"{self._label}:{share} {self._documents:,} documents, {size:,.1f} MB of text, {size / seconds:.1f} MB/s"
