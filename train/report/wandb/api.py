"""Calls to W&B outside a run: with a time limit, with the existing API key, without a prompt."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from train.tracking.wandb_run import has_key

T = TypeVar("T")


def check_key() -> None:
    """Raise ValueError if there is no W&B API key: wandb would prompt for one on the terminal."""
    if not has_key():
        raise ValueError("no W&B API key found: set WANDB_API_KEY, or run `wandb login` once")


def within(limit_s: float, action: Callable[[], T]) -> T:
    """Return the result of an action or raise its error; raise TimeoutError after `limit_s` seconds.

    After a timeout the action continues in a daemon thread, which does not keep the process alive.
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
