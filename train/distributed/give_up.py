"""A time limit for calls that cannot be interrupted: the process leaves."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from train.distributed.exit_codes import FAILED

log = logging.getLogger(__name__)


@contextmanager
def at_most(seconds: float, message: str, leave: Callable[[int], Any]) -> Iterator[None]:
    """Log `message` and call `leave` with code 1 when the block takes longer: torch's calls cannot be interrupted."""

    def late() -> None:
        log.error("%s", message)
        leave(FAILED)

    timer = threading.Timer(seconds, late)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
