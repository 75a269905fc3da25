"""What is asked of W&B outside a run: within a time limit, with the key that is there, without a prompt."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from train.tracking.wandb_run import has_key

T = TypeVar("T")


def check_key() -> None:
    """Raise ValueError when no W&B key is there: wandb would ask for one on the terminal."""
    if not has_key():
        raise ValueError("there is no W&B key: set WANDB_API_KEY, or run `wandb login` once")


def within(limit_s: float, action: Callable[[], T]) -> T:
    """Return what an action gives, or raise what it raises; TimeoutError when it takes longer than `limit_s` seconds.

    The action goes on in a thread of its own that does not keep the process from ending.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(action())
        except (Exception, SystemExit) as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="wandb-api", daemon=True)
    thread.start()
    thread.join(limit_s)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError(f"no answer within {limit_s:g} s")
    return results[0]
