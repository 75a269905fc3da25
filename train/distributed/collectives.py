"""JSON values between ranks, so that a failure on one rank is a failure on all of them and never a hang."""

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
"""Most bytes of a message that travel with its length: longer ones need a second collective."""


class RankFailed(RuntimeError):
    """The ranks met and at least one of them had failed; every rank raises this with the same message."""


@dataclass(frozen=True)
class Collectives:
    """Meetings of all ranks. Each rank brings a value or an error; each leaves with everyone's values or the error."""

    world: World
    deadline: Deadline = field(default_factory=Deadline)
    """Never breaks a meeting off."""

    def gather(self, step: str, value: Any = None, *, error: str | None = None) -> list[Any]:
        """Return every rank's `value` (anything JSON can hold), by rank.

        Raises RankFailed with the lowest rank's `error` if any brought one, or if the ranks met at different steps. A
        rank that has failed outside a meeting calls this once with its error: the others are told at their next one.
        Errors are told, and written down, without secrets.
        """
        error = without_secrets(error) if error is not None else None
        with self.deadline.held():
            told = _all_gather(json.dumps([step, value, error]).encode(), self.world)
            notes = [json.loads(text) for text in told]
            failures = [error for _, _, error in notes if error is not None]
            steps = [step for step, _, _ in notes]
            if not failures and len(set(steps)) > 1:
                failures = [f"the ranks were asked different things ({steps}): give all of them the same task files"]
            if failures:
                self.deadline.lift()  # all ranks know that the work is over: nobody may fail once more
                raise RankFailed(failures[0])
            return [value for _, value, _ in notes]

    def run(self, step: str, work: Callable[[], T]) -> T:
        """Return what `work` gives on this rank, once it has ended well on every rank; all ranks call this together.

        Raises RankFailed on all of them if one could not do it, whatever the reason: an error, being late, or
        SystemExit. Inside, ranks may meet through this exchange alone.
        """
        try:
            value = work()
        except RankFailed:
            raise
        except (Exception, SystemExit, TooLate) as error:
            self.gather(step, error=f"{type(error).__name__}: {error}")
            raise AssertionError("a gathering with an error always raises") from error
        self.gather(step)
        return value


def _all_gather(text: bytes, world: World) -> list[bytes]:
    """Return every rank's bytes, by rank; as tensors, since the ranks may not trust or share pickles.

    One collective for what is no longer than FIRST_BYTES everywhere, two for more.
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
    """Return every rank's bytes, filled up with zeros to `size`, which is the same on all ranks."""
    import torch
    import torch.distributed as dist

    mine = torch.frombuffer(bytearray(text.ljust(size, b"\0")), dtype=torch.uint8).to(world.device)
    rows = torch.empty(world.size, size, dtype=torch.uint8, device=world.device)
    dist.all_gather(list(rows), mine)
    return [bytes(row) for row in rows.cpu().numpy()]
