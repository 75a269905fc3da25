"""Collectives over JSON values: a failure on one rank becomes a failure on all of them, never a hang."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from train.config.secrets import without_secrets
from train.distributed.deadline import Deadline, TooLate
from train.distributed.world import World

T = TypeVar("T")

LENGTH_BYTES = 8
FIRST_BYTES = 4096
"""Bytes of a message sent together with its length; longer messages need a second collective."""


class RankFailed(RuntimeError):
    """At least one rank entered a collective with an error; every rank raises this with the same message."""


@dataclass(frozen=True)
class Collectives:
    """Collectives of all ranks: each contributes a value or an error, and gets everyone's values or the error."""

    world: World
    deadline: Deadline = field(default_factory=Deadline)
    """Never interrupts a collective."""

    def gather(self, step: str, value: Any = None, *, error: str | None = None) -> list[Any]:
        """Return every rank's `value` (anything JSON can hold), by rank.

        Raises RankFailed with the lowest rank's `error` if any rank has one, or if the ranks are at different steps. A
        rank that has failed outside a collective calls this once with its error; the others get it at their next call.
        Errors are sent and logged without secrets.
        """
        error = without_secrets(error) if error is not None else None
        with self.deadline.held():
            messages = [json.loads(text) for text in _all_gather(json.dumps([step, value, error]).encode(), self.world)]
            failures = [error for _, _, error in messages if error is not None]
            steps = [step for step, _, _ in messages]
            if not failures and len(set(steps)) > 1:
                failures = [f"the ranks are at different steps ({steps}): give all of them the same task files"]
            if failures:
                self.deadline.lift()  # all ranks know that the work is over: none may fail again
                raise RankFailed(failures[0])
            return [value for _, value, _ in messages]

    def run(self, step: str, work: Callable[[], T]) -> T:
        """Return this rank's result of `work`, once it has succeeded on every rank; all ranks call this together.

        Raises RankFailed on all of them if it failed on one, for any reason: an error, the deadline, or SystemExit.
        Inside `work`, ranks may communicate only through this object.
        """
        try:
            value = work()
        except RankFailed:
            raise
        except (Exception, SystemExit, TooLate) as error:
            self.gather(step, error=f"{type(error).__name__}: {error}")
            raise AssertionError("gather with an error always raises") from error
        self.gather(step)
        return value


def _all_gather(text: bytes, world: World) -> list[bytes]:
    """Return every rank's bytes, by rank; sent as tensors, so that no pickle is loaded.

    One collective if every message fits into FIRST_BYTES, otherwise two.
    """
    if world.size == 1:
        return [text]
    firsts = _gather_rows(
        len(text).to_bytes(LENGTH_BYTES, "little") + text[:FIRST_BYTES], LENGTH_BYTES + FIRST_BYTES, world
    )
    lengths = [int.from_bytes(row[:LENGTH_BYTES], "little") for row in firsts]
    whole = [row[LENGTH_BYTES:] for row in firsts]
    if max(lengths) > FIRST_BYTES:
        rests = _gather_rows(text[FIRST_BYTES:], max(lengths) - FIRST_BYTES, world)
        whole = [first + rest for first, rest in zip(whole, rests, strict=True)]
    return [row[:length] for row, length in zip(whole, lengths, strict=True)]


def _gather_rows(text: bytes, size: int, world: World) -> list[bytes]:
    """Return every rank's bytes, padded with zeros to `size`, which is the same on all ranks."""
    import torch
    import torch.distributed as dist

    mine = torch.frombuffer(bytearray(text.ljust(size, b"\0")), dtype=torch.uint8).to(world.device)
    rows = torch.empty(world.size, size, dtype=torch.uint8, device=world.device)
    dist.all_gather(list(rows), mine)
    return [bytes(row) for row in rows.cpu().numpy()]
