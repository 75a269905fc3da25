"""The ranks of a run: how they find each other, and how they exit without leaving anything behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from curriculum.artifact.drafts import process_alive
from curriculum.artifact.files import DISK_FULL as NO_ROOM
from train.distributed import heartbeat
from train.distributed.exit_codes import DISK_FULL, FAILED, OUT_OF_MEMORY
from train.distributed.heartbeat import SUPERVISOR
from train.distributed.out_of_memory import says_no_memory
from train.faults import fault

T = TypeVar("T")


class OtherRankFailed(RuntimeError):
    """Another rank failed; this one stops too, with the same exit code."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


CONNECTION_LOST = ("Connection closed by peer", "Connection reset by peer", "remote process exited")
"""Parts of the messages of gloo and NCCL."""


def code_of(error: BaseException) -> int:
    """Return the exit code for an error that ends a run (train/distributed/exit_codes.py)."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return DISK_FULL
    if says_no_memory(error):
        return OUT_OF_MEMORY
    return int(getattr(error, "exit_code", FAILED))


def connection_lost(error: BaseException) -> bool:
    """Return whether an error means that another rank is gone: gloo and NCCL have no class for it."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in CONNECTION_LOST)


@dataclass(frozen=True)
class World:
    """This rank's place among all ranks."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    hosts: Any = None
    """CPU process group (gloo) for messages between hosts, next to the devices' group; None: the default group."""

    @property
    def first(self) -> bool:
        """Is this rank 0, which does the writing that happens once per run?"""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()

    def all_sum(self, values: Tensor) -> Tensor:
        """Add a tensor over the ranks, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def agree(self, ok: bool) -> bool:
        """Return whether `ok` holds on every rank: a failure on one rank becomes a failure on all, not a hang."""
        flag = torch.tensor([0 if ok else 1], dtype=torch.int64, device=self.device)
        return int(self.all_sum(flag).item()) == 0

    def together(self, problem: Exception | None) -> None:
        """Fail on every rank if one has a problem: raise it there, and OtherRankFailed on the ranks without one."""
        code = torch.tensor([0 if problem is None else code_of(problem)], dtype=torch.int64, device=self.device)
        if self.size > 1:
            dist.all_reduce(code, dist.ReduceOp.MAX)
        if problem is not None:
            raise problem
        if int(code.item()):
            raise OtherRankFailed("another rank failed; see its message", int(code.item()))

    def first_does(self, action: Callable[[], T]) -> T | None:
        """Run an action on rank 0 only and return its result (None elsewhere).

        When it fails, its exception is raised on rank 0 and OtherRankFailed on the rest, so that no rank hangs.
        """
        result: T | None = None
        problem: Exception | None = None
        if self.first:
            try:
                result = action()
            except Exception as error:
                problem = error
        self.together(problem)
        return result

    def same(self, value: int) -> int:
        """Return rank 0's value on every rank."""
        flag = torch.tensor([value if self.first else 0], dtype=torch.int64, device=self.device)
        return int(self.all_sum(flag).item())


def local_ranks(size: int) -> int:
    """Return how many of a run's ranks are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", str(size))))


def finish(world: World) -> None:
    """Destroy the process group, together with all ranks."""
    fault("world.leaving")
    if dist.is_initialized():
        world.barrier()
        dist.destroy_process_group()


def watch_supervisor(interval_s: float = 0.5) -> None:
    """End this rank when the process that started the run is gone: no rank keeps writing after a killed launcher."""
    pid = int(os.environ.get(SUPERVISOR, "0"))
    if not pid:
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent and process_alive(pid):
            heartbeat.still_here()
            time.sleep(interval_s)
        os._exit(143)

    threading.Thread(target=watch, name="supervisor-watch", daemon=True).start()
