"""JSON values between ranks, so that a failure on one rank is a failure on all of them and never a hang."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from train.deadline import Deadline, TooLate
from train.secrets import without_secrets
from train.world import World

T = TypeVar("T")


class RankFailed(RuntimeError):
    """The ranks met and at least one of them had failed; every rank raises this with the same message."""


@dataclass(frozen=True)
class Exchange:
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
    """Return every rank's bytes, by rank; as tensors, since the ranks may not trust or share pickles."""
    if world.size == 1:
        return [text]
    import torch
    import torch.distributed as dist

    sizes = torch.zeros(world.size, dtype=torch.int64, device=world.device)
    sizes[world.rank] = len(text)
    lengths = world.all_sum(sizes).tolist()
    mine = torch.zeros(max(lengths), dtype=torch.uint8, device=world.device)
    mine[: len(text)] = torch.frombuffer(bytearray(text), dtype=torch.uint8).to(world.device)
    every = [torch.empty_like(mine) for _ in lengths]
    dist.all_gather(every, mine)
    return [bytes(row[:length].cpu().numpy()) for row, length in zip(every, lengths, strict=True)]
