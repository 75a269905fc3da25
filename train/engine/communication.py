"""How a rank joins the others: the launcher's environment, the rendezvous, DeepSpeed's process group."""

from __future__ import annotations

import logging
import os
import warnings
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from curriculum.work.cpus import threads_per_process
from train.distributed import heartbeat
from train.distributed.own_name import check_own_name
from train.distributed.rendezvous import rendezvous
from train.distributed.store import meets_here
from train.distributed.world import World, local_ranks, watch_supervisor
from train.engine.patches import JOIN, TABLE, check
from train.faults import fault

TIMEOUT = timedelta(minutes=30)
"""Timeout of a collective."""
LOOPBACK = "lo"
"""Linux's name of the interface."""
MEET_S = 300.0
"""Timeout of the rendezvous, from the first rank to arrive until all are connected."""


def start(threads: int | None = None, meet_s: float = MEET_S) -> World:
    """Join the ranks given by the launcher's environment (RANK, WORLD_SIZE, ...), or be the only one.

    `threads`: CPU threads of this rank (`threads_per_process`).

    Raises NotMet when a rank does not join within `meet_s` seconds, and Refused when ranks of other machines could not
    connect to this one.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    local_size = local_ranks(size)
    if size == 1:
        os.environ.update(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1", LOCAL_SIZE="1")
    rank, local_rank = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    watch_supervisor()
    heartbeat.report_in()
    torch.set_num_threads(threads_per_process(local_size, threads))  # on a GPU too: an offloaded AdamW runs on the CPU
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
        device, backend = torch.device("cuda", local_rank), "nccl"
    else:
        os.environ["DS_ACCELERATOR"] = "cpu"
        device, backend = torch.device("cpu"), "gloo"
    if size == 1 or meets_here():  # gloo and NCCL listen there, not on the addresses that other machines can reach
        for library in ("GLOO", "NCCL"):
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", LOOPBACK)
    elif local_size < size:
        check_own_name(os.environ["MASTER_ADDR"])
    load()
    with rendezvous(rank, size, meet_s, heartbeat.leave) as store:
        _join(backend, device, rank, size, store)
        hosts = dist.new_group(backend="gloo", timeout=TIMEOUT) if size > 1 else None
    fault("world.joined")
    return World(rank, size, local_rank, local_size, device, hosts)


def load() -> None:
    """Import DeepSpeed quietly. Raises UnknownDeepSpeed when it lacks an internal that joining needs."""
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\..*is deprecated", category=FutureWarning)
    check(row for row in TABLE if row.where is JOIN)
    # It would try which of its extensions can be compiled here, and on the CPU compile one (a minute, a C++ compiler)
    # that gloo does not need.
    deepspeed.ops._probe_compatible_ops = lambda: {}
    vars(deepspeed.ops).pop("__compatible_ops__", None)  # the answer, if something has already asked


def _join(backend: str, device: torch.device, rank: int, size: int, store: Any) -> None:
    """Create the process group of all ranks, which meet in `store`; every rank calls this, after `load`.

    DeepSpeed's engine works in a copy of that group. It would create the copy later, when a rank may already be lost,
    and wait for that rank for as long as a collective may take, so the copy is created here too.
    """
    import deepspeed

    store.set_timeout(TIMEOUT)
    bound = device if device.type == "cuda" and size > 1 else None  # as DeepSpeed binds it
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=TIMEOUT, device_id=bound)
    deepspeed.init_distributed(dist_backend=backend, timeout=TIMEOUT, verbose=False, auto_mpi_discovery=False)
    deepspeed.utils.groups._clone_world_group()
