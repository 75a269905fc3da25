"""The ranks of a run: how they find each other, and how they leave without leaving anything behind."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from curriculum.artifact.files import DISK_FULL as NO_ROOM
from curriculum.artifact.files import process_alive
from train.distributed import heartbeat
from train.distributed.exit_codes import DISK_FULL, FAILED, OUT_OF_MEMORY
from train.distributed.out_of_memory import says_no_memory
from train.distributed.rendezvous import meeting
from train.faults import fault

SUPERVISOR = "PDPC_SUPERVISOR_PID"
"""Environment variable with the process that started the ranks: when it is gone, they leave."""

TIMEOUT = timedelta(minutes=30)
"""Longest time of a collective."""
MEET_S = 300.0
"""Longest time between the first and the last rank that come, and in which they are connected."""

T = TypeVar("T")


class OtherRankFailed(RuntimeError):
    """Another rank failed; this one stops with it, and with its exit code."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


CONNECTION_LOST = ("Connection closed by peer", "Connection reset by peer", "remote process exited")
"""What gloo, and NCCL, say of it."""


def code_of(error: BaseException) -> int:
    """Return the exit code of a run that ends with an error (train/distributed/exit_codes.py)."""
    if isinstance(error, OSError) and error.errno in NO_ROOM:
        return DISK_FULL
    if says_no_memory(error):
        return OUT_OF_MEMORY
    return int(getattr(error, "exit_code", FAILED))


def connection_lost(error: BaseException) -> bool:
    """Tell whether an error says that another rank is gone: gloo and NCCL have no class for it."""
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
    """Process group of what the hosts tell each other beside the devices (gloo); None: the ranks' own."""

    @property
    def first(self) -> bool:
        """Is this rank 0, which writes what is written once?"""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait until every rank is here."""
        if self.size > 1:
            dist.barrier()

    def all_sum(self, values: Tensor) -> Tensor:
        """Add a tensor over the ranks, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def agree(self, ok: bool) -> bool:
        """Tell whether every rank says so: a failure on one rank becomes a failure on all, not a hang."""
        flag = torch.tensor([0 if ok else 1], dtype=torch.int64, device=self.device)
        return int(self.all_sum(flag).item()) == 0

    def together(self, problem: Exception | None) -> None:
        """End alike on every rank: raise a rank's own problem there, and OtherRankFailed on those that have none."""
        code = torch.tensor([0 if problem is None else code_of(problem)], dtype=torch.int64, device=self.device)
        if self.size > 1:
            dist.all_reduce(code, dist.ReduceOp.MAX)
        if problem is not None:
            raise problem
        if int(code.item()):
            raise OtherRankFailed("another rank failed; its message says why", int(code.item()))

    def first_does(self, action: Callable[[], T]) -> T | None:
        """Let rank 0 do something alone and return what it gives (None elsewhere).

        When it fails, its exception is raised on rank 0 and OtherRankFailed on the rest: nobody waits for ever.
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


def start(threads: int | None = None, meet_s: float = MEET_S) -> World:
    """Join the ranks that the launcher's environment names (RANK, WORLD_SIZE, ...), or be the only one.

    Raises NotMet when a rank does not come within `meet_s` seconds.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local_size = local_ranks(size)
    if size == 1 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":  # nobody else has to find it
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1"}
        os.environ.update(alone, MASTER_ADDR="127.0.0.1", MASTER_PORT=str(free_port()))
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    watch_supervisor()
    heartbeat.report_in()
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        device, backend = torch.device("cuda", local_rank), "nccl"
    else:
        os.environ["DS_ACCELERATOR"] = "cpu"
        torch.set_num_threads(threads or max(1, (os.cpu_count() or 1) // local_size))
        device, backend = torch.device("cpu"), "gloo"
    from train.engine import communication

    communication.load()
    with meeting(rank, size, meet_s, heartbeat.leave):
        communication.join(backend, TIMEOUT)
        hosts = dist.new_group(backend="gloo", timeout=TIMEOUT) if size > 1 else None
    fault("world.joined")
    return World(rank, size, local_rank, local_size, device, hosts)


def local_ranks(size: int) -> int:
    """Return how many of a run's ranks are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("LOCAL_SIZE", str(size))))


def finish(world: World) -> None:
    """Leave the process group together with all ranks."""
    fault("world.leaving")
    if dist.is_initialized():
        world.barrier()
        dist.destroy_process_group()


def free_port() -> int:
    """Return a TCP port of the loopback address that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def watch_supervisor(interval_s: float = 0.5) -> None:
    """End this rank when the process that started the run is gone: no rank goes on writing after a killed launcher."""
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
