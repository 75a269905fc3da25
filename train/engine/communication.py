"""How a rank joins DeepSpeed's process group."""

from __future__ import annotations

import logging
import warnings
from datetime import timedelta

from train.engine.patches import JOIN, TABLE, check


def load() -> None:
    """Import DeepSpeed quietly. Raises UnknownDeepSpeed when it lacks an internal that joining needs."""
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\..*is deprecated", category=FutureWarning)
    check(row for row in TABLE if row.where is JOIN)
    # On the CPU DeepSpeed would compile its own extension (a minute, a C++ compiler), which gloo does not need.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def join(backend: str, timeout: timedelta) -> None:
    """Create the process group of all ranks; every rank calls this, after `load`.

    DeepSpeed's engine works in a copy of that group. It would create the copy later, when a rank may already be lost,
    and wait for that rank for as long as a collective may take, so the copy is created here too.
    """
    import deepspeed

    deepspeed.init_distributed(dist_backend=backend, timeout=timeout, verbose=False, auto_mpi_discovery=False)
    deepspeed.utils.groups._clone_world_group()
