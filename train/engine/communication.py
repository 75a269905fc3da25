"""How a rank joins DeepSpeed's process group."""

from __future__ import annotations

import logging
import warnings
from datetime import timedelta

from train.engine.patches import JOIN, TABLE, check


def load() -> None:
    """Import DeepSpeed, quietly. Raises UnknownDeepSpeed when it lacks what joining needs."""
    import deepspeed

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\..*is deprecated", category=FutureWarning)
    check(row for row in TABLE if row.where is JOIN)
    # On the CPU DeepSpeed would compile an extension of its own (a minute, a C++ compiler) that gloo does without.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def join(backend: str, timeout: timedelta) -> None:
    """Create the group of all ranks; every rank calls this, after `load`.

    DeepSpeed's engine works in a copy of that group. It would create it later, when a rank may be lost, and wait for it
    for as long as a collective may take: so the copy is created here too.
    """
    import deepspeed

    deepspeed.init_distributed(dist_backend=backend, timeout=timeout, verbose=False, auto_mpi_discovery=False)
    deepspeed.utils.groups._clone_world_group()
